// SPDX-License-Identifier: Apache-2.0
//
// The command line.
//
// Model: words are taken one after the other. Options may stand before the command's name (those
// that every command has), before its operands and between them. "--" ends the options. Where a
// command to run follows KEY, the first word after KEY that is no option begins it, with or without
// "--" in front: what comes then is not ours.
//
// Each option has a setter and a field of struct lockctl_arguments, as its row says.

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "client/lockctl_arguments.h"
#include "protocol/duration.h"
#include "protocol/wire.h"

enum {
    RUN = 1 << 0,
    ACQUIRE = 1 << 1,
    RELEASE = 1 << 2,
    LIST = 1 << 3,
    INSPECT = 1 << 4,
    BREAK = 1 << 5,
    PING = 1 << 6,
    CALL = 1 << 7,
    WATCH = 1 << 8,
    ALL = ~0,

    HELP_COLUMN = 32,
    HELP_WIDTH = 98,
    USAGE_INDENT = 15, // "usage: lockctl "
};

// The order is that of the bits above.
const struct lockctl_command lockctl_commands[] = {
    {"run", "KEY [--] COMMAND [ARGUMENT...]", "run a command while holding the lock on KEY",
     "COMMAND runs in a process group of its own, and the lock is given back when it ends. INT, "
     "TERM, HUP, QUIT, USR1 and USR2 are passed on to the group. Its environment has "
     "LOCK_KEEPER_KEY, LOCK_KEEPER_LEASE, LOCK_KEEPER_FENCE and LOCK_KEEPER_SOCKET.\n"
     "When the lock is lost the group gets SIGTERM at once, and SIGKILL in time to be gone before "
     "anybody else can have the lock. When lockctl is killed, the group is killed first and then "
     "the lock is freed.\n"
     "Exit: COMMAND's own code, or 128 and the number of the signal that ended it; 75 the lock is "
     "held (or -E); 69 no sidecar or no Redis; 64 wrong usage; 123 the lock was lost; 124 the "
     "workflow deadline came; 125 lockctl failed; 126 COMMAND can't be run; 127 it isn't found.",
     lockctl_run, 2, -1},
    {"acquire", "KEY", "hold the lock on KEY until standard input ends",
     "Prints the grant, one line of JSON, and holds the lock until standard input ends or INT, "
     "TERM or HUP comes; exit 0 then, 123 when the lock was lost, 124 when its workflow deadline "
     "came. With --detach it ends at once and the lock is held until it is released.",
     lockctl_acquire, 1, 1},
    {"release", "[KEY/]LEASE", "give a lock back, of which the lease is known",
     "LEASE is the 32 digits that acquire printed. With KEY the lease is also found in a sidecar "
     "that has been restarted since.",
     lockctl_release, 1, 1},
    {"list", "", "show which locks this sidecar holds, and who waits for one", NULL, lockctl_list,
     0, 0},
    {"inspect", "KEY", "show who holds the lock on KEY, in whichever sidecar",
     "One line of JSON, or, on a terminal, for people.", lockctl_inspect, 1, 1},
    {"break", "KEY", "take the lock on KEY away from whoever holds it",
     "For root and the sidecar's own user. A holder in this sidecar is told first.", lockctl_break,
     1, 1},
    {"ping", "", "see whether the sidecar answers",
     "Exit: 0 if it does, whatever Redis does; 69 if not. With --redis, 69 also if Redis is away.",
     lockctl_ping, 0, 0},
    {"call", "JSON", "send one request as it stands and print the reply", NULL, lockctl_call, 1, 1},
    {"watch", "", "show leases and waiters live, until q is pressed", NULL, lockctl_watch, 0, 0},
    {0},
};

typedef int option_setter(void *field, const char *text);

struct option {
    char letter;          // 0: none
    const char *name;     // the long one
    const char *argument; // NULL: takes none
    const char *help;
    unsigned commands;
    option_setter *set; // 0, or -EINVAL
    size_t field;
    const char *wanted; // what the argument should have been
};

static int set_flag(void *field, const char *text)
{
    (void)text;
    *(bool *)field = true;
    return 0;
}

static int set_text(void *field, const char *text)
{
    *(const char **)field = text;
    return 0;
}

static int set_no_wait(void *field, const char *text)
{
    (void)text;
    *(int64_t *)field = 0;
    return 0;
}

static int set_duration(void *field, const char *text)
{
    return duration_parse(text, field) == 0 ? 0 : -EINVAL;
}

static int set_positive(void *field, const char *text)
{
    int64_t ms;

    if (duration_parse(text, &ms) != 0 || ms == 0)
        return -EINVAL;
    *(int64_t *)field = ms;
    return 0;
}

static int set_code(void *field, const char *text)
{
    char *end;
    long code = strtol(text, &end, 10);

    if (end == text || *end || code < 0 || code > 255)
        return -EINVAL;
    *(int64_t *)field = code;
    return 0;
}

#define FIELD(member) offsetof(struct lockctl_arguments, member)
#define DURATION "a duration such as 500ms, 30s or 1m30s"

static const struct option options[] = {
    {'w', "wait", "DUR", "wait at most this long for the lock (default: without end)",
     RUN | ACQUIRE, set_duration, FIELD(wait), DURATION},
    {'n', "nonblock", NULL, "don't wait: end at once where the lock is held", RUN | ACQUIRE,
     set_no_wait, FIELD(wait), NULL},
    {0, "ttl", "DUR", "the lease's TTL (default: the sidecar's --lock-ttl)", RUN | ACQUIRE,
     set_positive, FIELD(ttl), DURATION " above 0"},
    {0, "deadline", "DUR",
     "how long the lock may be held in all (default: the sidecar's --actor-workflow-deadline)",
     RUN | ACQUIRE, set_positive, FIELD(deadline), DURATION " above 0"},
    {'k', "kill-after", "DUR",
     "when the lock is lost, SIGKILL this long after SIGTERM, unless safety asks for it earlier",
     RUN, set_duration, FIELD(kill_after), DURATION},
    {'E', "conflict-exit-code", "N", "exit code where the lock is held (default: 75)",
     RUN | ACQUIRE, set_code, FIELD(held_code), "a number from 0 to 255"},
    {0, "label", "TEXT", "shown to whoever asks who holds the lock", RUN | ACQUIRE, set_text,
     FIELD(label), NULL},
    {0, "detach", NULL, "leave the lock held, until it is released or its workflow deadline comes",
     ACQUIRE, set_flag, FIELD(detach), NULL},
    {0, "shell", NULL, "print the grant as assignments for a shell to eval", ACQUIRE, set_flag,
     FIELD(shell), NULL},
    {0, "grace", "DUR", "what a holder in this sidecar is given to stop in (default: 0)", BREAK,
     set_duration, FIELD(grace), DURATION},
    {0, "redis", NULL, "Redis has to answer too", PING, set_flag, FIELD(redis), NULL},
    {0, "json", NULL, "print JSON, on a terminal too", RELEASE | LIST | INSPECT | BREAK | PING,
     set_flag, FIELD(json), NULL},
    {0, "interval", "DUR", "time between looks (default: 500ms)", WATCH, set_positive,
     FIELD(interval), DURATION " above 0"},
    {0, "socket", "PATH",
     "the sidecar's socket (default: $LOCK_KEEPER_SOCKET, else /run/lock-keeper/lock-keeper.sock)",
     (unsigned)ALL, set_text, FIELD(socket), NULL},
    {'h', "help", NULL, "print this and exit", (unsigned)ALL, set_flag, FIELD(help), NULL},
    {'V', "version", NULL, "print the version and exit", (unsigned)ALL, set_flag, FIELD(version),
     NULL},
};

enum {
    OPTION_COUNT = sizeof options / sizeof options[0],
};

// The options that a command takes; before its name, those that all take.
static unsigned commands_of(const struct lockctl_command *command)
{
    return command ? 1u << (command - lockctl_commands) : (unsigned)ALL;
}

static bool applies(const struct option *option, const struct lockctl_command *command)
{
    unsigned commands = commands_of(command);

    return (option->commands & commands) == commands;
}

static const struct lockctl_command *find_command(const char *name)
{
    for (const struct lockctl_command *command = lockctl_commands; command->name; command++) {
        if (strcmp(command->name, name) == 0)
            return command;
    }
    return NULL;
}

// ---- Parsing ----

struct parser {
    struct lockctl_arguments *arguments;
    char **next; // the word after the one that is looked at; NULL ends them
    int operands;
    bool no_more_options;
};

static int complain(const struct parser *parser, const char *what, const char *word)
{
    const struct lockctl_command *command = parser->arguments->command;

    lockctl_say("%s%s; see lockctl %s%s--help", what, word, command ? command->name : "",
                command ? " " : "");
    return LOCKCTL_USAGE;
}

// attached: the argument in the same word, or NULL.
static int take_option(struct parser *parser, const struct option *option, const char *attached)
{
    void *field = (char *)parser->arguments + option->field;

    if (!option->argument) {
        if (attached)
            return complain(parser, "takes no value: --", option->name);
        option->set(field, NULL);
        return LOCKCTL_DONE;
    }
    if (!attached) {
        if (!*parser->next)
            return complain(parser, "needs a value: --", option->name);
        attached = *parser->next++;
    }
    if (option->set(field, attached) == 0)
        return LOCKCTL_DONE;
    lockctl_say("--%s %s: has to be %s", option->name, attached, option->wanted);
    return LOCKCTL_USAGE;
}

static int take_long(struct parser *parser, const char *word)
{
    const char *name = word + 2, *value = strchr(name, '=');
    size_t length = value ? (size_t)(value - name) : strlen(name);

    for (size_t i = 0; i < OPTION_COUNT; i++) {
        if (strncmp(options[i].name, name, length) == 0 && options[i].name[length] == '\0' &&
            applies(&options[i], parser->arguments->command))
            return take_option(parser, &options[i], value ? value + 1 : NULL);
    }
    return complain(parser, "no such option: ", word);
}

static const struct option *find_letter(const struct parser *parser, char letter)
{
    for (size_t i = 0; i < OPTION_COUNT; i++) {
        if (options[i].letter == letter && applies(&options[i], parser->arguments->command))
            return &options[i];
    }
    return NULL;
}

// "-n", "-w10s", "-nE9".
static int take_letters(struct parser *parser, const char *word)
{
    int code = LOCKCTL_DONE;

    for (const char *at = word + 1; *at && code == LOCKCTL_DONE; at++) {
        const struct option *option = find_letter(parser, *at);

        if (!option)
            return complain(parser, "no such option: ", word);
        if (option->argument)
            return take_option(parser, option, at[1] ? at + 1 : NULL);
        code = take_option(parser, option, NULL);
    }
    return code;
}

static int take_operand(struct parser *parser, char *word)
{
    struct lockctl_arguments *arguments = parser->arguments;

    if (!arguments->command) {
        arguments->command = find_command(word);
        return arguments->command ? LOCKCTL_DONE : complain(parser, "no such command: ", word);
    }
    if (arguments->command->most >= 0 && parser->operands == arguments->command->most)
        return complain(parser, "one word too many: ", word);
    if (parser->operands++ == 0)
        arguments->key = word;
    return LOCKCTL_DONE;
}

static bool is_option(const struct parser *parser, const char *word)
{
    return !parser->no_more_options && word[0] == '-' && word[1] != '\0';
}

// True where the command to run begins at the word before parser->next.
static bool begins_command(const struct parser *parser)
{
    const struct lockctl_command *command = parser->arguments->command;

    return command && command->most < 0 && parser->operands == 1;
}

static int take_word(struct parser *parser)
{
    char *word = *parser->next++;

    if (!parser->no_more_options && strcmp(word, "--") == 0) {
        parser->no_more_options = !begins_command(parser);
        if (begins_command(parser))
            parser->arguments->rest = parser->next;
        return LOCKCTL_DONE;
    }
    if (is_option(parser, word))
        return word[1] == '-' ? take_long(parser, word) : take_letters(parser, word);
    if (begins_command(parser)) {
        parser->arguments->rest =
            strcmp(word, "--") == 0 ? parser->next : parser->next - 1; // after `-- KEY`
        return LOCKCTL_DONE;
    }
    return take_operand(parser, word);
}

static int check_operands(const struct parser *parser)
{
    const struct lockctl_arguments *arguments = parser->arguments;

    if (!arguments->command)
        return complain(parser, "a command is missing", "");
    if (parser->operands < 1 && arguments->command->least >= 1)
        return complain(parser, "missing: ", arguments->command->operands);
    if (arguments->command->most < 0 && (!arguments->rest || !*arguments->rest))
        return complain(parser, "the command to run is missing", "");
    return LOCKCTL_DONE;
}

int lockctl_arguments_parse(struct lockctl_arguments *arguments, int argc, char **argv)
{
    struct parser parser = {.arguments = arguments, .next = argc > 0 ? argv + 1 : argv};
    int code = LOCKCTL_DONE;

    *arguments = (struct lockctl_arguments){
        .wait = -1,
        .kill_after = -1,
        .interval = 500,
        .held_code = LOCKCTL_HELD,
        .argc = argc,
        .argv = argv,
    };
    while (code == LOCKCTL_DONE && *parser.next && !arguments->rest)
        code = take_word(&parser);
    if (code != LOCKCTL_DONE || arguments->help || arguments->version)
        return code;
    return check_operands(&parser);
}

// ---- Help ----

// Prints text from column on, wrapped, with a newline at its end.
static void print_wrapped(FILE *file, const char *text, int column, int indent)
{
    while (*text) {
        size_t word = strcspn(text, " \n");

        if (column > indent && column + 1 + (int)word > HELP_WIDTH)
            column = fprintf(file, "\n%*s", indent, "") - 1;
        else if (column > indent)
            column += fprintf(file, " ");
        column += fprintf(file, "%.*s", (int)word, text);
        text += word;
        if (*text == '\n') {
            fprintf(file, "\n\n%*s", indent, "");
            column = indent;
        }
        text += *text != '\0';
    }
    fprintf(file, "\n");
}

static void print_option(FILE *file, const struct option *option)
{
    int column =
        fprintf(file, "  %c%c%c --%s%s%s", option->letter ? '-' : ' ',
                option->letter ? option->letter : ' ', option->letter ? ',' : ' ', option->name,
                option->argument ? " " : "", option->argument ? option->argument : "");

    if (column >= HELP_COLUMN)
        column = fprintf(file, "\n") - 1;
    fprintf(file, "%*s", HELP_COLUMN - column, "");
    print_wrapped(file, option->help, HELP_COLUMN, HELP_COLUMN);
}

// Options of the command alone, or those of all commands.
static void print_options(FILE *file, const struct lockctl_command *command, bool common)
{
    for (size_t i = 0; i < OPTION_COUNT; i++) {
        if (applies(&options[i], command) && (options[i].commands == (unsigned)ALL) == common)
            print_option(file, &options[i]);
    }
}

static void print_usage(FILE *file, const struct lockctl_command *command)
{
    char line[512];
    int at = snprintf(line, sizeof line, "%s", command->name);

    for (size_t i = 0; i < OPTION_COUNT; i++) {
        const struct option *option = &options[i];
        const char letter[] = {option->letter, '\0'};

        if (!applies(option, command) || option->commands == (unsigned)ALL)
            continue;
        at += snprintf(line + at, sizeof line - (size_t)at, " [%s%s%s%s]",
                       option->letter ? "-" : "--", option->letter ? letter : option->name,
                       option->argument ? " " : "", option->argument ? option->argument : "");
    }
    snprintf(line + at, sizeof line - (size_t)at, " %s", command->operands);
    print_wrapped(file, line, fprintf(file, "usage: lockctl "), USAGE_INDENT);
}

static void print_program_help(FILE *file)
{
    fprintf(file, "usage: lockctl COMMAND [OPTION...] ...\n\n"
                  "Locks that lock-keeper holds in Redis, for scripts and for people.\n\n"
                  "Commands:\n");
    for (const struct lockctl_command *command = lockctl_commands; command->name; command++)
        fprintf(file, "  %-9s %s\n", command->name, command->summary);
    fprintf(file, "\nOptions of every command:\n");
    print_options(file, NULL, true);
    fprintf(file, "\nlockctl COMMAND --help tells more.\n");
}

void lockctl_arguments_help(FILE *file, const struct lockctl_command *command)
{
    if (!command) {
        print_program_help(file);
        return;
    }
    print_usage(file, command);
    fprintf(file, "\n%c%s.\n", command->summary[0] - 'a' + 'A', command->summary + 1);
    if (command->details) {
        fprintf(file, "\n");
        print_wrapped(file, command->details, 0, 0);
    }
    fprintf(file, "\nOptions:\n");
    print_options(file, command, false);
    print_options(file, command, true);
}
