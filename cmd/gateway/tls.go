package main

import (
	"context"
	"encoding/json"

	"github.com/spf13/cobra"

	"github.com/phigate/phigate/gateway"
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
		x, err := g.TLS().Explain(ctx, args[0])
		if err != nil {
			return unreachable(err)
		}
		if *asJSON {
			return json.NewEncoder(c.out).Encode(x)
		}
		_, err = x.WriteTo(c.out)
		return err
	}})
}
