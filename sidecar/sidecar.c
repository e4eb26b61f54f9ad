// SPDX-License-Identifier: Apache-2.0
//
// One turn of the loop, in order:
//
//     first (ev_check, highest priority)   the clock is read, what is due is swept
//     descriptors                          Redis' answers (swept again after each read); which
//                                          clients are ready
//     last (ev_prepare)                    those are read and their requests handled, clients are
//                                          written, then Redis is, and the one timer is armed for
//                                          the earliest instant
//
// Peers are written before Redis, so that a holder is told before what follows from it is done.
//
// SIGTERM drains: no new leases; after --drain-timeout, or at a second signal, holders are revoked;
// the loop ends when nothing is held or owed, or when all that is left is owed and Redis stays away.
// SIGUSR2 ends at once and leaves the keys, for a restart whose clients adopt.

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sysexits.h>
#include <unistd.h>

#include "sidecar/clock.h"
#include "sidecar/log.h"
#include "sidecar/sidecar.h"
#include "sidecar/store_redis.h"
#include "sidecar/systemd.h"

#define container_of(pointer, type, member) ((type *)((char *)(pointer)-offsetof(type, member)))

enum { BACKOFF_MIN_MS = 10, BACKOFF_MAX_MS = 1000 };

// ---- What the keeper asks of the world ----

static void fill_random(void *context, void *bytes, size_t size)
{
    (void)context;
    for (size_t done = 0; done < size;) {
        ssize_t n = getrandom((char *)bytes + done, size - done, 0);
        if (n > 0)
            done += (size_t)n;
        else if (errno != EINTR)
            abort(); // without randomness a token is no capability
    }
}

static int64_t read_clock(void *context)
{
    (void)context;
    return clock_boottime_ms();
}

static const char *watch_process(void *context, struct session *session, pid_t *pid, void **watch)
{
    struct sidecar *sidecar = context;
    return process_watch(&sidecar->processes, peer_socket(session), session, pid, watch);
}

static void unwatch_process(void *context, void *watch)
{
    struct sidecar *sidecar = context;
    process_unwatch(&sidecar->processes, watch);
}

// ---- A turn ----

static int64_t earliest(struct sidecar *sidecar)
{
    const int64_t at[] = {
        keeper_next_wake(&sidecar->keeper),
        peers_next_wake(&sidecar->peers),
        listener_next_wake(&sidecar->listener),
        sidecar->store->ops->next_timeout(sidecar->store),
        sidecar->drain_until_ms,
    };
    int64_t least = INT64_MAX;

    for (size_t i = 0; i < sizeof at / sizeof at[0]; i++)
        least = at[i] < least ? at[i] : least;
    return least;
}

static void start_stopping(struct sidecar *sidecar, int64_t now_ms)
{
    sidecar->drain_until_ms = INT64_MAX;
    log_info("revoking what is held");
    keeper_shutdown(&sidecar->keeper, now_ms);
}

static void sweep(struct sidecar *sidecar, int64_t now_ms)
{
    keeper_sweep(&sidecar->keeper, now_ms);
    sidecar->store->ops->sweep(sidecar->store, now_ms);
    peers_sweep(&sidecar->peers, now_ms);
    listener_sweep(&sidecar->listener, now_ms);
    if (now_ms >= sidecar->drain_until_ms)
        start_stopping(sidecar, now_ms);
}

// The wake-up that was due tells how late the loop is.
static void observe_lateness(struct sidecar *sidecar, int64_t now_ms)
{
    if (sidecar->wakeup.armed_ms > now_ms ||
        !lateness_observe(&sidecar->lateness, sidecar->wakeup.armed_ms, now_ms))
        return;
    sidecar->keeper.options.rules.widen_ms = sidecar->lateness.widen_ms;
    log_warn("revoke margin changed, by how late the loop was",
             LOG_FIELD_INT("widened_by_ms", sidecar->lateness.widen_ms),
             LOG_FIELD_INT("worst_lateness_ms", sidecar->lateness.worst_ms));
}

static void on_first(struct ev_loop *loop, struct ev_check *check, int events)
{
    struct sidecar *sidecar = container_of(check, struct sidecar, first);
    int64_t now_ms = clock_boottime_ms();

    (void)loop;
    (void)events;
    observe_lateness(sidecar, now_ms);
    sweep(sidecar, now_ms);
}

static void on_last(struct ev_loop *loop, struct ev_prepare *prepare, int events)
{
    struct sidecar *sidecar = container_of(prepare, struct sidecar, last);
    int64_t now_ms, next_ms;

    (void)events;
    peers_read(&sidecar->peers, clock_boottime_ms());
    now_ms = clock_boottime_ms();
    peers_flush(&sidecar->peers, now_ms);
    store_redis_flush(sidecar->store, now_ms);
    if (keeper_is_drained(&sidecar->keeper, now_ms)) {
        ev_break(loop, EVBREAK_ALL);
        return;
    }
    next_ms = earliest(sidecar);
    if (next_ms <= now_ms) {
        ev_idle_start(loop, &sidecar->awake);
    } else {
        ev_idle_stop(loop, &sidecar->awake);
        if (next_ms < INT64_MAX)
            wakeup_arm(&sidecar->wakeup, next_ms);
    }
}

static void on_awake(struct ev_loop *loop, struct ev_idle *idle, int events)
{
    (void)loop;
    (void)idle;
    (void)events;
}

// ---- Signals ----

static void on_stop(struct ev_loop *loop, struct ev_signal *signal, int events)
{
    struct sidecar *sidecar = signal->data;
    int64_t now_ms = clock_boottime_ms();

    (void)loop;
    (void)events;
    if (sidecar->keeper.draining) {
        if (sidecar->drain_until_ms != INT64_MAX)
            start_stopping(sidecar, now_ms);
        return;
    }
    log_info("draining", LOG_FIELD_INT("timeout_ms", sidecar->drain_timeout_ms),
             LOG_FIELD_INT("leases", sidecar->keeper.pending));
    systemd_notify("STOPPING=1");
    keeper_drain(&sidecar->keeper, now_ms);
    sidecar->drain_until_ms = now_ms + sidecar->drain_timeout_ms;
}

static void on_leave(struct ev_loop *loop, struct ev_signal *signal, int events)
{
    struct sidecar *sidecar = signal->data;

    (void)events;
    log_info("leaving at once; keys stay in Redis to be adopted",
             LOG_FIELD_INT("leases", sidecar->keeper.pending));
    systemd_notify("STOPPING=1");
    ev_break(loop, EVBREAK_ALL);
}

static void watch_signal(struct sidecar *sidecar, struct ev_signal *watcher, int number,
                         void (*callback)(struct ev_loop *, struct ev_signal *, int))
{
    ev_signal_init(watcher, callback, number);
    watcher->data = sidecar;
    ev_signal_start(sidecar->loop, watcher);
}

// ---- Life ----

static void name_host(char *host, size_t size)
{
    if (gethostname(host, size - 1) < 0)
        snprintf(host, size, "unknown");
    host[size - 1] = '\0';
    for (char *at = host; *at; at++)
        if (*at <= ' ' || *at > '~')
            *at = '_';
    if (!host[0])
        snprintf(host, size, "unknown");
}

static int make_store(struct sidecar *sidecar, const struct config *config)
{
    struct store_redis_options options = {
        .url = config->redis,
        .password_file = config->redis_password_file,
        .key_prefix = config->key_prefix,
        .silence_ms = lease_call_ms(config->lock_ttl_ms),
        .backoff_min_ms = BACKOFF_MIN_MS,
        .backoff_max_ms = BACKOFF_MAX_MS,
    };

    return store_redis_new(sidecar->loop, &options, &sidecar->store);
}

static int make_keeper(struct sidecar *sidecar, const struct config *config)
{
    struct keeper_options options = {
        .rules = {.revoke_margin_ms = config->revoke_margin_ms},
        .lock_ttl_ms = config->lock_ttl_ms,
        .max_lock_ttl_ms = config->max_lock_ttl_ms,
        .workflow_deadline_ms = config->workflow_deadline_ms,
        .max_workflow_deadline_ms = config->max_workflow_deadline_ms,
        .caps = {[ACCOUNT_CONNECTIONS] = (uint32_t)config->max_connections_per_uid,
                 [ACCOUNT_LEASES] = (uint32_t)config->max_leases_per_uid,
                 [ACCOUNT_WAITERS] = (uint32_t)config->max_waiters_per_uid},
        .host = sidecar->host,
        .random = fill_random,
        .clock = read_clock,
        .watch_process = watch_process,
        .unwatch_process = unwatch_process,
        .context = sidecar,
        .uid = geteuid(),
    };

    sidecar->processes = (struct processes){.loop = sidecar->loop, .keeper = &sidecar->keeper};

    return keeper_init(&sidecar->keeper, &options, sidecar->store);
}

static void start_watchers(struct sidecar *sidecar)
{
    watch_signal(sidecar, &sidecar->stop[0], SIGTERM, on_stop);
    watch_signal(sidecar, &sidecar->stop[1], SIGINT, on_stop);
    watch_signal(sidecar, &sidecar->leave, SIGUSR2, on_leave);
    ev_check_init(&sidecar->first, on_first);
    ev_set_priority(&sidecar->first, EV_MAXPRI);
    ev_check_start(sidecar->loop, &sidecar->first);
    ev_prepare_init(&sidecar->last, on_last);
    ev_set_priority(&sidecar->last, EV_MINPRI);
    ev_prepare_start(sidecar->loop, &sidecar->last);
    ev_idle_init(&sidecar->awake, on_awake);
}

static int build(struct sidecar *sidecar, const struct config *config)
{
    int r;

    sidecar->loop = ev_loop_new(EVFLAG_AUTO | EVFLAG_NOSIGMASK);
    if (!sidecar->loop)
        return -ENOMEM;
    r = make_store(sidecar, config);
    if (r < 0)
        goto no_store;
    r = make_keeper(sidecar, config);
    if (r < 0)
        goto no_keeper;
    r = wakeup_init(&sidecar->wakeup, sidecar->loop);
    if (r == 0)
        return 0;
    keeper_deinit(&sidecar->keeper);
no_keeper:
    store_redis_free(sidecar->store);
no_store:
    ev_loop_destroy(sidecar->loop);
    return r;
}

int sidecar_init(struct sidecar *sidecar, const struct config *config, char *error, size_t size)
{
    int code, r;

    sidecar->drain_timeout_ms = config->drain_timeout_ms;
    sidecar->drain_until_ms = INT64_MAX;
    name_host(sidecar->host, sizeof sidecar->host);
    code = listener_open(&sidecar->listener, config->socket_path, config->socket_mode,
                         config->socket_group, error, size);
    if (code != 0)
        return code;
    r = build(sidecar, config);
    if (r < 0) {
        snprintf(error, size, "cannot start: %s", strerror(-r));
        listener_close(&sidecar->listener, sidecar->loop);
        return EX_OSERR;
    }
    lateness_init(&sidecar->lateness, lease_margin_ms(&sidecar->keeper.options.rules,
                                                      sidecar->keeper.options.lock_ttl_ms));
    peers_init(&sidecar->peers, sidecar->loop, &sidecar->keeper);
    listener_start(&sidecar->listener, &sidecar->peers);
    start_watchers(sidecar);
    return 0;
}

void sidecar_run(struct sidecar *sidecar)
{
    char histogram[512];

    systemd_notify("READY=1");
    ev_run(sidecar->loop, 0);
    lateness_format(&sidecar->lateness, histogram, sizeof histogram);
    log_info("lateness of the loop's wake-ups", LOG_FIELD_STR("count", histogram),
             LOG_FIELD_INT("worst_ms", sidecar->lateness.worst_ms));
}

void sidecar_deinit(struct sidecar *sidecar)
{
    listener_close(&sidecar->listener, sidecar->loop);
    peers_deinit(&sidecar->peers, clock_boottime_ms());
    store_redis_free(sidecar->store);
    keeper_deinit(&sidecar->keeper);
    wakeup_deinit(&sidecar->wakeup, sidecar->loop);
    ev_loop_destroy(sidecar->loop);
}
