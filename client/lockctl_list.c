// SPDX-License-Identifier: Apache-2.0
//
// lockctl list: all pages, as one table or one reply.

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "client/lockctl.h"
#include "client/lockctl_list.h"
#include "client/lockctl_print.h"
#include "protocol/writer.h"

enum {
    COLUMNS = 8,
};

int lockctl_list_all(struct lock_keeper *keeper, lockctl_list_taker *take, void *user)
{
    char after[WIRE_MAX_CURSOR + 1] = "";
    const struct lock_keeper_reply *reply;

    do {
        int result = lock_keeper_list(keeper, WIRE_LIST_MAX, *after ? after : NULL);

        if (result != 0)
            return result;
        reply = lock_keeper_get_reply(keeper);
        for (size_t i = 0; i < reply->row_count; i++)
            take(&reply->rows[i], user);
        snprintf(after, sizeof after, "%s", reply->next ? reply->next : "");
    } while (*after);
    return 0;
}

static void take_cells(const struct lock_keeper_row *row, void *user)
{
    char holder[PRINT_HOLDER_SIZE], since[PRINT_SPAN_SIZE], valid[PRINT_SPAN_SIZE];
    char deadline[PRINT_SPAN_SIZE], fence[24] = "-";

    if (row->fence >= 0)
        snprintf(fence, sizeof fence, "%lld", (long long)row->fence);
    print_table_add(user, (const char *const[COLUMNS]){
                              row->state,
                              row->key,
                              print_holder(&row->holder, holder),
                              print_span(row->held_ms >= 0 ? row->held_ms : row->waited_ms, since),
                              print_span(row->valid_ms, valid),
                              print_span(row->deadline_in_ms, deadline),
                              fence,
                              row->holder.label ? row->holder.label : "",
                          });
}

static size_t terminal_width(void)
{
    struct winsize size;

    return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

static int list_as_table(struct lock_keeper *keeper)
{
    static const char *const headings[COLUMNS] = {"STATE", "KEY",      "HOLDER", "SINCE",
                                                  "VALID", "DEADLINE", "FENCE",  "LABEL"};
    struct print_table table;
    int result;

    print_table_init(&table, COLUMNS);
    print_table_add(&table, headings);
    result = lockctl_list_all(keeper, take_cells, &table);
    if (result == 0)
        print_table_print(&table, stdout, terminal_width());
    if (table.failed)
        lockctl_say("there is not enough memory for all rows");
    print_table_deinit(&table);
    return result;
}

// ---- JSON ----

static void write_int(struct buf *out, enum wire_member member, int64_t value)
{
    if (value >= 0)
        writer_int(out, member, value);
}

static void write_string(struct buf *out, enum wire_member member, const char *text)
{
    if (text && *text)
        writer_string(out, member, text, strlen(text));
}

static void write_holder(struct buf *out, const struct lock_keeper_holder *holder)
{
    writer_open_object(out, WIRE_MEMBER_HOLDER);
    if (holder->foreign) {
        writer_bool(out, WIRE_MEMBER_FOREIGN, true);
        write_int(out, WIRE_MEMBER_BYTES, holder->bytes);
        write_string(out, WIRE_MEMBER_TYPE, holder->type);
    } else {
        write_string(out, WIRE_MEMBER_HOST, holder->host);
        write_int(out, WIRE_MEMBER_PID, holder->pid);
        write_int(out, WIRE_MEMBER_UID, holder->uid);
        write_string(out, WIRE_MEMBER_LABEL, holder->label);
        write_int(out, WIRE_MEMBER_FENCE, holder->fence);
    }
    writer_close_object(out);
}

static void take_json(const struct lock_keeper_row *row, void *user)
{
    struct buf *out = user;

    writer_open_item(out);
    write_string(out, WIRE_MEMBER_STATE, row->state);
    write_string(out, WIRE_MEMBER_KEY, row->key);
    write_holder(out, &row->holder);
    write_int(out, WIRE_MEMBER_HELD_MS, row->held_ms);
    write_int(out, WIRE_MEMBER_WAITED_MS, row->waited_ms);
    write_int(out, WIRE_MEMBER_VALID_MS, row->valid_ms);
    write_int(out, WIRE_MEMBER_FENCE, row->fence);
    write_int(out, WIRE_MEMBER_DEADLINE_IN_MS, row->deadline_in_ms);
    writer_close_object(out);
}

// As the reply would be if a line could be as long as it takes.
static int list_as_json(struct lock_keeper *keeper)
{
    struct buf out = BUF_INIT;
    int result;

    writer_reply(&out, true, WIRE_OP_LIST, NULL);
    writer_open_array(&out, WIRE_MEMBER_LEASES);
    result = lockctl_list_all(keeper, take_json, &out);
    writer_close_array(&out);
    writer_end(&out);
    if (result == 0 && out.failed)
        result = LOCK_KEEPER_E_INTERNAL;
    if (result == 0)
        fwrite(buf_bytes(&out), 1, buf_length(&out), stdout);
    buf_deinit(&out);
    return result;
}

int lockctl_list(const struct lockctl_arguments *arguments)
{
    struct lock_keeper *keeper = lockctl_open(arguments);
    int code;

    if (!keeper)
        return LOCKCTL_SOFTWARE;
    code = lockctl_refused(arguments, keeper,
                           arguments->json ? list_as_json(keeper) : list_as_table(keeper));
    lock_keeper_free(keeper);
    return code;
}
