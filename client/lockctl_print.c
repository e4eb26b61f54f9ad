// SPDX-License-Identifier: Apache-2.0
//
// Output for people and for shells.

#include <stdlib.h>
#include <string.h>

#include "client/lockctl_print.h"
#include "protocol/buf.h"

enum {
    GAP = 2,
};

char *print_span(int64_t ms, char *text)
{
    long long s = ms / 1000;

    if (ms < 0)
        strcpy(text, "-");
    else if (ms < 1000)
        snprintf(text, PRINT_SPAN_SIZE, "%lldms", (long long)ms);
    else if (s < 60)
        snprintf(text, PRINT_SPAN_SIZE, "%lld.%llds", s, (long long)ms % 1000 / 100);
    else if (s < 3600)
        snprintf(text, PRINT_SPAN_SIZE, "%lldm%02llds", s / 60, s % 60);
    else if (s < 86400)
        snprintf(text, PRINT_SPAN_SIZE, "%lldh%02lldm", s / 3600, s / 60 % 60);
    else
        snprintf(text, PRINT_SPAN_SIZE, "%lldd%02lldh", s / 86400, s / 3600 % 24);
    return text;
}

char *print_holder(const struct lock_keeper_holder *holder, char *text)
{
    if (!holder->foreign)
        snprintf(text, PRINT_HOLDER_SIZE, "%lld@%s", (long long)holder->pid, holder->host);
    else if (holder->type)
        snprintf(text, PRINT_HOLDER_SIZE, "(foreign: a %s)", holder->type);
    else
        snprintf(text, PRINT_HOLDER_SIZE, "(foreign: %lld bytes)", (long long)holder->bytes);
    return text;
}

void print_assignment(FILE *file, const char *name, const char *text)
{
    fprintf(file, "%s='", name);
    for (; *text; text++)
        fprintf(file, *text == '\'' ? "'\\''" : "%c", *text);
    fprintf(file, "'\n");
}

size_t print_width(const char *text)
{
    size_t width = 0;

    for (; *text; text++)
        width += ((unsigned char)*text & 0xc0) != 0x80; // not for the rest of a character
    return width;
}

size_t print_cut(const char *text, size_t width)
{
    size_t bytes = 0;

    while (text[bytes]) {
        if (((unsigned char)text[bytes] & 0xc0) != 0x80 && width-- == 0)
            break;
        bytes++;
    }
    return bytes;
}

void print_table_init(struct print_table *table, size_t columns)
{
    *table = (struct print_table){.columns = columns};
}

void print_table_deinit(struct print_table *table)
{
    for (size_t i = 0; i < table->count; i++)
        free(table->cells[i]);
    free(table->cells);
    *table = (struct print_table){0};
}

static bool reserve(struct print_table *table)
{
    size_t capacity = table->capacity * 2 + table->columns * 8;
    char **cells;

    if (table->count + table->columns <= table->capacity)
        return true;
    cells = realloc(table->cells, capacity * sizeof *cells);
    if (!cells)
        return false;
    table->cells = cells;
    table->capacity = capacity;
    return true;
}

void print_table_add(struct print_table *table, const char *const *texts)
{
    size_t begin = table->count;

    table->failed |= !reserve(table);
    if (table->failed)
        return;
    for (size_t i = 0; i < table->columns; i++) {
        char *cell = strdup(texts[i]);

        if (!cell) {
            while (table->count > begin)
                free(table->cells[--table->count]);
            table->failed = true;
            return;
        }
        table->cells[table->count++] = cell;
    }
}

static size_t column_width(const struct print_table *table, size_t column)
{
    size_t widest = 0;

    for (size_t i = column; i < table->count; i += table->columns) {
        size_t width = print_width(table->cells[i]);

        widest = width > widest ? width : widest;
    }
    return widest;
}

static void compose(const struct print_table *table, size_t row, const size_t *widths,
                    struct buf *line)
{
    for (size_t i = 0; i < table->columns; i++) {
        const char *cell = table->cells[row + i];

        buf_append_string(line, cell);
        for (size_t pad = print_width(cell); pad < widths[i] + GAP; pad++)
            buf_append(line, " ", 1);
    }
    while (buf_length(line) > 0 && buf_bytes(line)[buf_length(line) - 1] == ' ')
        buf_truncate(line, buf_length(line) - 1);
    buf_append(line, "", 1);
}

void print_table_print(struct print_table *table, FILE *file, size_t width)
{
    size_t *widths = calloc(table->columns, sizeof *widths);
    struct buf line = BUF_INIT;

    for (size_t i = 0; widths && i < table->columns; i++)
        widths[i] = column_width(table, i);
    for (size_t row = 0; widths && row < table->count; row += table->columns) {
        const char *text;

        buf_truncate(&line, 0);
        compose(table, row, widths, &line);
        text = buf_bytes(&line);
        if (!line.failed)
            fprintf(file, "%.*s\n", (int)print_cut(text, width ? width : SIZE_MAX), text);
    }
    table->failed |= line.failed || !widths;
    buf_deinit(&line);
    free(widths);
}
