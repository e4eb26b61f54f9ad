// SPDX-License-Identifier: Apache-2.0

//go:build go1.20

package lockkeeper

import "context"

// With it, context.Cause of the lease's context and of all contexts made from it is the loss.
func withCancelCause(parent context.Context) (context.Context, func(cause error)) {
	ctx, cancel := context.WithCancelCause(parent)
	return ctx, cancel
}
