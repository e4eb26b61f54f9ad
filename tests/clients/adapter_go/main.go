// SPDX-License-Identifier: Apache-2.0

// The adapter of client/go. See README.md in the folder above.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"lockkeeper"
)

type asked struct {
	cancel context.CancelFunc
	lease  *lockkeeper.Lease
}

var (
	mu   sync.Mutex // of what is printed, and of the leases
	all  = map[string]*asked{}
	keep *lockkeeper.Client
)

func say(format string, values ...any) {
	mu.Lock()
	defer mu.Unlock()
	fmt.Printf(format+"\n", values...)
}

func nameOf(err error) string {
	var refusal *lockkeeper.Error
	switch {
	case errors.As(err, &refusal):
		return refusal.Name
	case errors.Is(err, context.Canceled):
		return "errCancelled"
	}
	return err.Error()
}

func refused(name string, err error) {
	more := ""
	var refusal *lockkeeper.Error
	var lost *lockkeeper.LostError
	if errors.As(err, &lost) {
		more = " reason=" + lost.Reason
	} else if errors.As(err, &refusal) && errors.Is(err, lockkeeper.ErrLockHeld) {
		if refusal.Holder.Label != "" {
			more = " holder=" + refusal.Holder.Label
		}
		more += " retry_after=none"
		if refusal.RetryAfter >= 0 {
			more = strings.Replace(more, "none", fmt.Sprint(refusal.RetryAfter.Milliseconds()), 1)
		}
	}
	say("refused %s %s%s", name, nameOf(err), more)
}

func optionsOf(words []string) (options lockkeeper.Options) {
	for _, word := range words {
		name, value, _ := strings.Cut(word, "=")
		ms, _ := strconv.Atoi(value)
		span := time.Duration(ms) * time.Millisecond
		switch name {
		case "wait":
			options.Wait = span
		case "ttl":
			options.TTL = span
		case "deadline":
			options.Deadline = span
		case "label":
			options.Label = value
		case "bind":
			options.Bind = value
			if value == "pid" {
				options.PID = os.Getpid()
			}
		}
	}
	return options
}

// The loss as the contexts tell it: the lease's own, and one that was made from it.
func awaitLoss(name string, lease *lockkeeper.Lease) {
	child, cancel := context.WithCancel(lease.Context())
	defer cancel()
	<-child.Done()
	if err := lease.Context().Err(); err != lockkeeper.ErrLostActorLock {
		if err != context.Canceled {
			say("lost %s reason=context-says-%v", name, err)
		}
		return // released
	}
	var lost, ofChild *lockkeeper.LostError
	if !errors.As(lockkeeper.Cause(lease.Context()), &lost) || !errors.As(lockkeeper.Cause(child), &ofChild) {
		say("lost %s reason=no-cause", name)
		return
	}
	say("lost %s reason=%s safe=%d", name, ofChild.Reason, lost.Safe.Milliseconds())
}

func acquire(ctx context.Context, name, key string, options lockkeeper.Options) {
	lease, err := keep.Acquire(ctx, key, options)
	if err != nil {
		refused(name, err)
		return
	}
	mu.Lock()
	all[name].lease = lease
	mu.Unlock()
	say("granted %s fence=%d ttl=%d deadline=%d", name, lease.Fence(), lease.TTL().Milliseconds(),
		lease.Deadline().Milliseconds())
	awaitLoss(name, lease)
}

func leaseOf(name string) *lockkeeper.Lease {
	mu.Lock()
	defer mu.Unlock()
	return all[name].lease
}

func do(command string, words []string) {
	switch command {
	case "open":
		ms, _ := strconv.Atoi(words[1])
		keep = lockkeeper.New(words[0])
		keep.Timeout = time.Duration(ms) * time.Millisecond
	case "acquire":
		ctx, cancel := context.WithCancel(context.Background())
		mu.Lock()
		all[words[0]] = &asked{cancel: cancel}
		mu.Unlock()
		go acquire(ctx, words[0], words[1], optionsOf(words[2:]))
	case "cancel":
		all[words[0]].cancel()
	case "release":
		go func() {
			lease := leaseOf(words[0])
			if err := lease.Release(); err != nil {
				refused(words[0], err)
				return
			}
			say("released %s freed=%v", words[0], lease.Freed())
		}()
	case "valid":
		say("valid %s %v", words[0], leaseOf(words[0]).Valid())
	}
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		words := strings.Split(lines.Text(), " ")
		if words[0] == "quit" {
			break
		}
		do(words[0], words[1:])
	}
	if keep != nil {
		_ = keep.Close()
	}
}
