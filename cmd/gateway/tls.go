package main

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/spf13/cobra"

	"github.com/phigate/phigate/gateway"
	"github.com/phigate/phigate/internal/mail"
)

func (c *command) tls() *cobra.Command {
	return group("tls", "How safely domains can be reached", c.tlsExplain())
}

func (c *command) tlsExplain() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "explain DOMAIN",
		Short:   "Explain how a domain's mail servers are proved, step by step with the RFC sections",
		Example: "  gateway tls explain example.org",
		Args:    cobra.ExactArgs(1),
	}
	asJSON := cmd.Flags().Bool("json", false, "the explanation as JSON")
	return c.site(siteVerb{cmd: cmd, file: noInput, do: func(ctx context.Context, g *gateway.Gateway, args []string, _ input) error {
		if _, err := mail.ASCIIDomain(args[0]); err != nil {
			return usage(errors.New("not a domain name"))
		}
		x, err := g.TLS().Explain(ctx, args[0])
		var printed error // what is known is told, also where the evaluation failed
		if *asJSON {
			printed = json.NewEncoder(c.out).Encode(x)
		} else {
			_, printed = x.WriteTo(c.out)
		}
		if err != nil {
			return unreachable(err)
		}
		return printed
	}})
}
