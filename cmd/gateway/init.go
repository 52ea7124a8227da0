package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/phigate/phigate/gateway"
)

func (c *command) init() *cobra.Command {
	var host string
	cmd := &cobra.Command{
		Use:     "init DIR",
		Short:   "Write a commented site: configuration, policy with tests, keys, a certificate",
		Example: "  gateway init /etc/gateway",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := gateway.Init(args[0], host, time.Now()); err != nil {
				return usage(err)
			}
			path := filepath.Join(args[0], "gateway.yaml")
			fmt.Fprintf(c.out, "Wrote a site to %s. Edit gateway.yaml and policy.yaml there, then:\n\n"+
				"  gateway check -c %s\n"+
				"  gateway sender password mailer-a -c %s\n"+
				"  gateway serve -c %s\n", args[0], path, path, path)
			return nil
		},
	}
	name, _ := os.Hostname()
	cmd.Flags().StringVar(&host, "hostname", name, "name in the self-signed certificate")
	return cmd
}
