package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/phigate/phigate/gateway"
	"github.com/phigate/phigate/internal/mail"
)

func (c *command) dkim() *cobra.Command {
	return group("dkim", "Signing keys", c.dkimNew(), c.dkimShow())
}

func (c *command) dkimNew() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "new DOMAIN",
		Short: "Make an RSA-2048 and an Ed25519 key for a domain and print the DNS records to publish",
		Long: "The new keys sign from now on, so publish their records at once: until others see them, signatures do not\n" +
			"verify. Leave the records of old keys published for a week, since mail they signed is still under way.",
		Example: "  gateway dkim new valleyclinic.example",
		Args:    cobra.ExactArgs(1),
	}
	selector := cmd.Flags().String("selector", "", "start of both selectors (default: gw and the date)")
	by := byFlag(cmd)
	return c.site(siteVerb{cmd: cmd, file: noInput, do: func(ctx context.Context, g *gateway.Gateway, args []string, _ input) error {
		prefix := *selector
		if prefix == "" {
			prefix = "gw" + time.Now().UTC().Format("20060102")
		}
		keys, err := g.NewDKIM(ctx, args[0], prefix, person(*by))
		if err != nil {
			return usage(err)
		}
		return c.printRecords(keys)
	}})
}

func (c *command) dkimShow() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "show [DOMAIN]",
		Short:   "Print the DNS records of the signing keys as zone-file lines",
		Example: "  gateway dkim show valleyclinic.example",
		Args:    cobra.MaximumNArgs(1),
	}
	return c.site(siteVerb{cmd: cmd, file: noInput, do: func(ctx context.Context, g *gateway.Gateway, args []string, _ input) error {
		all, err := g.DKIMKeys(ctx)
		if err != nil {
			return unreachable(err)
		}
		keys := all
		if len(args) == 1 {
			keys = nil
			for _, k := range all {
				if k.Domain == args[0] {
					keys = append(keys, k)
				}
			}
		}
		if len(keys) == 0 {
			return no(errors.New("no keys; gateway dkim new DOMAIN makes them"))
		}
		return c.printRecords(keys)
	}})
}

func (c *command) printRecords(keys []mail.Key) error {
	for _, k := range keys {
		record, err := k.DNSRecord()
		if err != nil {
			return err
		}
		fmt.Fprintln(c.out, record)
	}
	return nil
}
