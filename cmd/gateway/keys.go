package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/phigate/phigate/gateway"
	"github.com/phigate/phigate/internal/keys"
)

func (c *command) keys() *cobra.Command {
	return group("keys", "The keys that seal what is stored", c.keysRotate(), c.keysDestroy(), c.keysList())
}

func (c *command) keysRotate() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rotate NEWFILE",
		Short: "Wrap all keys under a new root key, made in NEWFILE unless it exists",
		Long: "Only the wrapping changes; nothing stored is sealed again. Afterwards name NEWFILE in gateway.yaml\n" +
			"(keys: {root: {file: …}}): the old root key opens nothing any more.",
		Example: "  gateway keys rotate /etc/gateway/root2.key",
		Args:    cobra.ExactArgs(1),
	}
	by := byFlag(cmd)
	return c.site(siteVerb{cmd: cmd, file: noInput, do: func(ctx context.Context, g *gateway.Gateway, args []string, _ input) error {
		if !filepath.IsAbs(args[0]) { // a running gateway has a working directory of its own
			return usage(errors.New("name the new root key with its whole path"))
		}
		if err := g.RotateRoot(ctx, args[0], person(*by)); err != nil {
			return unreachable(err)
		}
		fmt.Fprintf(c.out, "all keys are wrapped under %s now; name it in gateway.yaml before the next start\n", args[0])
		return nil
	}})
}

func (c *command) keysDestroy() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "destroy DAY",
		Short:   "Shred all mail sealed on a day that is over; this cannot be undone",
		Example: "  gateway keys destroy 2026-01-31 --yes",
		Args:    cobra.ExactArgs(1),
	}
	yes := cmd.Flags().Bool("yes", false, "really do it")
	by := byFlag(cmd)
	return c.site(siteVerb{cmd: cmd, file: noInput, do: func(ctx context.Context, g *gateway.Gateway, args []string, _ input) error {
		epoch, err := keys.ParseEpoch(args[0])
		if err != nil {
			return usage(errors.New("a day is written 2026-01-31"))
		}
		if !*yes {
			return usage(errors.New("mail of that day that is still queued or waits for pickup will be lost; add --yes"))
		}
		if err := g.DestroyEpoch(ctx, epoch, person(*by)); err != nil {
			return no(err)
		}
		fmt.Fprintf(c.out, "the key of %s is destroyed\n", epoch)
		return nil
	}})
}

func (c *command) keysList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List the daily keys", Example: "  gateway keys list", Args: cobra.NoArgs}
	return c.site(siteVerb{cmd: cmd, file: noInput, do: func(_ context.Context, g *gateway.Gateway, _ []string, _ input) error {
		return list(c, false, "DAY\tROOT\tDESTROYED", given(g.Keys().Epochs()), func(i keys.Info) string {
			return fmt.Sprintf("%s\t%s\t%s", i.Epoch, i.Root, day(i.Destroyed))
		})
	}})
}
