// SPDX-License-Identifier: Apache-2.0
//
// The same in a libev loop, for a program that has other things to do: waits for a key, works in
// steps by a timer, and goes on through a restart of the sidecar.
//
//     loop KEY [STEPS]
//
//     cc loop.c $(pkg-config --cflags --libs liblockkeeper) -lev -o loop
//
// One watcher is all that the library needs. Its descriptor is readable whenever there is something
// to do, also when only time has passed, and stays the same when the connection does not.
#include <ev.h>
#include <lock_keeper.h>
#include <stdio.h>
#include <stdlib.h>

enum { EXIT_UNAVAILABLE = 69, EXIT_HELD = 75, EXIT_LOST = 123 };

struct program {
    struct ev_loop *loop;
    ev_io readable;
    ev_timer step;
    struct lock_keeper *keeper;
    struct lock_keeper_lease *lease; // NULL: not held
    int done, steps;
    int result;
};

static void finish(struct program *program, int result)
{
    program->result = result;
    ev_break(program->loop, EVBREAK_ALL);
}

// A step, and the next one in 200 ms.
static void on_step(struct ev_loop *loop, ev_timer *step, int events)
{
    struct program *program = step->data;

    (void)loop;
    (void)events;
    if (!lock_keeper_valid(program->lease))
        return; // the event that says why is on its way
    printf("step %d under fence %lld\n", ++program->done,
           (long long)lock_keeper_lease_fence(program->lease));
    fflush(stdout);
    if (program->done < program->steps)
        return;
    ev_timer_stop(program->loop, &program->step);
    lock_keeper_start_release(program->keeper, program->lease, NULL);
}

static void on_granted(struct program *program, struct lock_keeper_lease *lease)
{
    program->lease = lease;
    program->step.repeat = 0.2;
    ev_timer_again(program->loop, &program->step);
}

// The answer to our acquire, or to our release.
static void on_reply(struct program *program, const struct lock_keeper_reply *reply)
{
    if (reply->lease) {
        on_granted(program, reply->lease);
        return;
    }
    if (reply->code != 0)
        fprintf(stderr, "%s: %s\n", reply->name, reply->message);
    if (program->lease)
        finish(program, reply->code == 0 && program->done == program->steps ? 0 : EXIT_LOST);
    else
        finish(program, reply->code == LOCK_KEEPER_E_LOCK_HELD ? EXIT_HELD : EXIT_UNAVAILABLE);
}

static void on_event(struct lock_keeper *keeper, const struct lock_keeper_event *event, void *user)
{
    struct program *program = user;

    switch (event->kind) {
    case LOCK_KEEPER_EVENT_REPLY:
        on_reply(program, event->reply);
        break;
    case LOCK_KEEPER_EVENT_REVOKED: // stop within event->safe_ms, then say so
        fprintf(stderr, "stopping: %s: %s\n", event->reason_name, event->message);
        ev_timer_stop(program->loop, &program->step);
        lock_keeper_start_release(keeper, event->lease, NULL);
        break;
    case LOCK_KEEPER_EVENT_DISCONNECTED:
        fprintf(stderr, "the sidecar is away; going on while the lease is valid\n");
        break;
    case LOCK_KEEPER_EVENT_ADOPTED:
        fprintf(stderr, "the sidecar is back\n");
        break;
    default:
        break;
    }
}

static void on_readable(struct ev_loop *loop, ev_io *readable, int events)
{
    struct program *program = readable->data;

    (void)loop;
    (void)events;
    if (lock_keeper_process(program->keeper) < 0)
        finish(program, EXIT_UNAVAILABLE);
}

int main(int argc, char **argv)
{
    struct program program = {.loop = ev_default_loop(0),
                              .keeper = lock_keeper_new(NULL),
                              .steps = argc > 2 ? atoi(argv[2]) : 10};

    if (argc < 2 || !program.loop || !program.keeper) {
        fprintf(stderr, "usage: loop KEY [STEPS]\n");
        return 64;
    }
    ev_io_init(&program.readable, on_readable, lock_keeper_get_fd(program.keeper), EV_READ);
    ev_init(&program.step, on_step);
    program.readable.data = program.step.data = &program;
    ev_io_start(program.loop, &program.readable);
    lock_keeper_set_handler(program.keeper, on_event, &program);
    lock_keeper_start_acquire(
        program.keeper,
        &(struct lock_keeper_acquire){.key = argv[1], .wait_ms = 2000, .label = "examples/c/loop"},
        NULL);
    ev_run(program.loop, 0);
    lock_keeper_free(program.keeper);
    ev_loop_destroy(program.loop);
    return program.result;
}
