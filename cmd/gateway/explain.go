package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"

	"github.com/spf13/cobra"

	"github.com/phigate/phigate/gateway"
	"github.com/phigate/phigate/policy"
)

func (c *command) explain() *cobra.Command {
	var sender, from string
	var to []string
	cmd := &cobra.Command{
		Use:     "explain FILE",
		Short:   "Tell the whole decision about a message without sending it: facts, rule, code, law, next step",
		Example: "  gateway explain --sender mailer-a --to pat@example.org newsletter.eml",
		Args:    cobra.ExactArgs(1),
	}
	f := cmd.Flags()
	f.StringVar(&sender, "sender", "", "name of the sender in policy.yaml (required)")
	f.StringVar(&from, "from", "", "envelope sender; default the From header's")
	f.StringArrayVar(&to, "to", nil, "recipient; may be repeated (required)")
	asJSON := f.Bool("json", false, "the explanation as JSON")
	cmd.MarkFlagRequired("sender")
	cmd.MarkFlagRequired("to")
	return c.site(siteVerb{cmd: cmd, file: 0, do: func(ctx context.Context, g *gateway.Gateway, _ []string, in input) error {
		data, err := io.ReadAll(in)
		if err != nil {
			return usage(errors.New("cannot read the message"))
		}
		recipients := make([]policy.Address, len(to))
		for i, a := range to {
			recipients[i] = policy.Address(a)
		}
		x, err := g.Explain(ctx, sender, policy.Address(from), recipients, data)
		if err != nil {
			return usage(err)
		}
		x.Scan.File = in.name
		if *asJSON {
			enc := json.NewEncoder(c.out)
			enc.SetEscapeHTML(false)
			return enc.Encode(x)
		}
		_, err = x.WriteTo(c.out)
		return err
	}})
}
