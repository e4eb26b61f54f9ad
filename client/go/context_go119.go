// SPDX-License-Identifier: Apache-2.0

//go:build !go1.20

package lockkeeper

import "context"

// The cause is what the lease itself knows; see Cause.
func withCancelCause(parent context.Context) (context.Context, func(cause error)) {
	ctx, cancel := context.WithCancel(parent)
	return ctx, func(error) { cancel() }
}
