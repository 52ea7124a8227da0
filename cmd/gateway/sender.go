package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/phigate/phigate/gateway"
)

func (c *command) sender() *cobra.Command {
	return group("sender", "Tools that submit mail", c.senderPassword())
}

func (c *command) senderPassword() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "password NAME",
		Short:   "Set a sender's SMTP password, read from standard input",
		Example: "  head -c 24 /dev/urandom | base64 | tee mailer-a.password | gateway sender password mailer-a",
		Args:    cobra.ExactArgs(1),
	}
	by := byFlag(cmd)
	return c.site(siteVerb{cmd: cmd, file: fromStdin, do: func(ctx context.Context, g *gateway.Gateway, args []string, in input) error {
		if _, ok := g.Policy().Sender(args[0]); !ok {
			return usage(errors.New("the policy has no sender of this name"))
		}
		const longest = 1024
		text, err := io.ReadAll(io.LimitReader(in, longest+1))
		if err != nil {
			return usage(errors.New("cannot read the password from standard input"))
		}
		password, rest, _ := strings.Cut(strings.TrimSuffix(string(text), "\n"), "\n")
		password = strings.TrimSuffix(password, "\r")
		if password == "" || rest != "" || len(text) > longest {
			return usage(errors.New("the password is one line on standard input"))
		}
		if err := g.Registry().SetPassword(ctx, args[0], password, person(*by)); err != nil {
			return recordFailed(err)
		}
		fmt.Fprintf(c.out, "password of %s set\n", args[0])
		return nil
	}})
}

// day prints a date, "" for none.
func day(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.DateOnly)
}
