package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/phigate/phigate/gateway"
	"github.com/phigate/phigate/internal/store"
	"github.com/phigate/phigate/policy"
)

func (c *command) pickup() *cobra.Command {
	return group("pickup", "Messages that wait on the portal", c.pickupList(), c.pickupRecall(), c.pickupPIN())
}

func (c *command) pickupList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List messages on the portal and how far they came",
		Example: "  gateway pickup list --recipient pat@example.org", Args: cobra.NoArgs}
	recipient := cmd.Flags().String("recipient", "", "only those of this address")
	asJSON := cmd.Flags().Bool("json", false, "a JSON line per message")
	return c.site(siteVerb{cmd: cmd, file: noInput, do: func(ctx context.Context, g *gateway.Gateway, _ []string, _ input) error {
		return list(c, *asJSON, "PICKUP\tMESSAGE\tSTATE\tCODE\tSENDER\tEXPIRES", g.Pickups(ctx, policy.Address(*recipient)),
			func(r gateway.PickupRow) string {
				return fmt.Sprintf("%s\t%s\t%s\t%s\t%s\t%s", r.Pickup, r.ID, r.State, r.Code, cut(r.Sender, 20), day(r.Expires))
			})
	}})
}

func (c *command) pickupRecall() *cobra.Command {
	cmd := &cobra.Command{
		Use: "recall PICKUP", Short: "Take a message back from the portal; what was read stays read",
		Example: "  gateway pickup recall 0dh2k3m4n5p6q --reason 'sent to the wrong person'", Args: cobra.ExactArgs(1),
	}
	reason := cmd.Flags().String("reason", "", "why (required)")
	cmd.MarkFlagRequired("reason")
	by := byFlag(cmd)
	return c.site(siteVerb{cmd: cmd, file: noInput, do: func(ctx context.Context, g *gateway.Gateway, args []string, _ input) error {
		err := g.RecallPickup(ctx, store.ID(args[0]), person(*by), *reason)
		switch {
		case errors.Is(err, store.ErrNotFound):
			return no(errors.New("no pickup has this id; gateway pickup list shows them"))
		case errors.Is(err, gateway.ErrNoPortal):
			return usage(err)
		case err != nil:
			return unreachable(err)
		}
		fmt.Fprintln(c.out, "recalled")
		return nil
	}})
}

func (c *command) pickupPIN() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "pin ADDRESS",
		Short: "Make a PIN for a patient and print it once, to be handed over in person or by phone",
		Long: "From now on messages to this patient on sensitive topics ask for the PIN instead of a mailed code, and\n" +
			"cannot be opened without it. Waiting messages keep what they were made with.",
		Example: "  gateway pickup pin pat@example.org",
		Args:    cobra.ExactArgs(1),
	}
	by := byFlag(cmd)
	return c.site(siteVerb{cmd: cmd, file: noInput, do: func(ctx context.Context, g *gateway.Gateway, args []string, _ input) error {
		if policy.Address(args[0]).Domain() == "" {
			return usage(errors.New("not an e-mail address"))
		}
		pin, err := g.NewPIN(ctx, policy.Address(args[0]), person(*by))
		if err != nil {
			return unreachable(err)
		}
		fmt.Fprintln(c.out, pin)
		return nil
	}})
}
