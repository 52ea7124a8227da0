package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"github.com/phigate/phigate/gateway"
	"github.com/phigate/phigate/internal/yamlfile"
)

func (c *command) serve() *cobra.Command {
	var level string
	cmd := &cobra.Command{
		Use:     "serve",
		Short:   "Run the gateway; SIGHUP reloads policy and certificates, SIGTERM drains",
		Example: "  gateway serve -c /etc/gateway/gateway.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.live != nil {
				return usage(errors.New("serve does not run through the admin socket"))
			}
			var l slog.Level
			if err := l.UnmarshalText([]byte(level)); err != nil {
				return usage(errors.New("--log-level is one of debug, info, warn, error"))
			}
			cfg, err := c.loadConfig()
			if err != nil {
				return err
			}
			log := slog.New(slog.NewJSONHandler(c.err, &slog.HandlerOptions{Level: l}))
			return c.serveSite(cmd.Context(), cfg, log)
		},
	}
	cmd.Flags().StringVar(&level, "log-level", "info", "debug, info, warn or error")
	return cmd
}

func (c *command) serveSite(ctx context.Context, cfg gateway.Config, log *slog.Logger) (err error) {
	g, err := gateway.Open(ctx, cfg, gateway.Options{Log: log, Verb: runLive, Build: version()})
	if err != nil {
		return openFailed(err)
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	if err := g.Listen(); err != nil {
		return unreachable(err)
	}
	fmt.Fprintln(c.err, g.Banner(version()))
	notify := make(chan os.Signal, 1)
	signal.Notify(notify, syscall.SIGHUP)
	defer signal.Stop(notify)
	go func() {
		for {
			select {
			case <-ctx.Done():
				daemon.SdNotify(false, daemon.SdNotifyStopping)
				return
			case <-notify:
				g.Reload(ctx)
			}
		}
	}()
	daemon.SdNotify(false, daemon.SdNotifyReady)
	return g.Run(ctx)
}

// openFailed tells mistakes in files from things that could not be opened.
func openFailed(err error) error {
	var problems yamlfile.Problems
	if errors.As(err, &problems) {
		return usage(err)
	}
	return unreachable(err)
}
