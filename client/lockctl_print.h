// SPDX-License-Identifier: Apache-2.0
//
// Output for people and for shells.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "client/lock_keeper.h"

enum {
    PRINT_SPAN_SIZE = 24,
    PRINT_HOLDER_SIZE = 512,
};

// A time for people, about four characters of it: "850ms", "5.2s", "4m05s", "1h02m", "3d04h"; "-" where
// it is negative. Returns text, of PRINT_SPAN_SIZE.
char *print_span(int64_t ms, char *text);
// "812@pod-7", or what is known of a foreign value. Returns text, of PRINT_HOLDER_SIZE.
char *print_holder(const struct lock_keeper_holder *holder, char *text);
// NAME='text', quoted so that a shell takes text as it is.
void print_assignment(FILE *file, const char *name, const char *text);
// Characters that a text takes on a terminal, as far as they are one column wide.
size_t print_width(const char *text);
// Bytes of its first `width` characters.
size_t print_cut(const char *text, size_t width);

// Rows of texts in columns as wide as their widest. All texts are copied. Rows that found no memory
// are left out, and `failed` says so.
struct print_table {
    size_t columns;
    char **cells; // owned, each NUL-terminated
    size_t count; // of cells
    size_t capacity;
    bool failed;
};

void print_table_init(struct print_table *table, size_t columns);
void print_table_deinit(struct print_table *table);
// texts: as many as there are columns.
void print_table_add(struct print_table *table, const char *const *texts);
// width: what is longer is cut; 0: nothing is.
void print_table_print(struct print_table *table, FILE *file, size_t width);
