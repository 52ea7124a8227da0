package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/phigate/phigate/gateway"
	"github.com/phigate/phigate/internal/yamlfile"
)

// Exit statuses, a contract with scripts.
const (
	exitDone        = 0
	exitNo          = 1 // the answer is no: a check or a verification failed
	exitUsage       = 2 // wrong usage, or input that cannot be read
	exitUnreachable = 3 // something needed could not be reached or opened
)

// exitError is an error with its exit status. A nil err was already told.
type exitError struct {
	status int
	err    error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}
func (e *exitError) Unwrap() error { return e.err }

func no(err error) error          { return &exitError{exitNo, err} }
func usage(err error) error       { return &exitError{exitUsage, err} }
func unreachable(err error) error { return &exitError{exitUnreachable, err} }

// stdio is what a command reads and writes.
type stdio struct {
	in       io.Reader
	out, err io.Writer
}

// command is the surroundings of one command line.
type command struct {
	stdio
	config string           // -c
	live   *gateway.Gateway // the running gateway, when it carries out a command for someone else
	args   []string         // the command line as given, to send it on

	watched bool // for someone else, who sits at a terminal
}

// run carries out a command line of this process.
func run(ctx context.Context, args []string, io stdio) int {
	return (&command{stdio: io, args: args}).execute(ctx)
}

// runLive carries out a command line that came through the admin socket.
func runLive(ctx context.Context, g *gateway.Gateway, args []string, in io.Reader, out, errs io.Writer) int {
	c := &command{stdio: stdio{in, out, errs}, live: g, args: args}
	return c.execute(ctx)
}

func (c *command) execute(ctx context.Context) int {
	root := c.root()
	root.SetArgs(c.args)
	root.SetIn(c.in)
	root.SetOut(c.out)
	root.SetErr(c.err)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	status := exitUsage // cobra's own errors are about usage
	if e := (*exitError)(nil); errors.As(err, &e) {
		status = e.status
	}
	if text := err.Error(); text != "" {
		var problems yamlfile.Problems
		if errors.As(err, &problems) {
			fmt.Fprintln(c.err, text)
		} else {
			fmt.Fprintln(c.err, "gateway: "+text)
		}
	}
	return status
}

// root builds the tree of commands.
func (c *command) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "gateway",
		Short:         "SMTP gateway that enforces HIPAA policy on outgoing mail",
		Example:       "  gateway demo\n  gateway init /etc/gateway\n  gateway serve -c /etc/gateway/gateway.yaml",
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       version(),
	}
	root.PersistentFlags().StringVarP(&c.config, "config", "c", "", "configuration (default gateway.yaml here, then /etc/gateway/gateway.yaml)")
	root.AddCommand(
		c.demo(), c.init(), c.serve(), c.check(), c.scan(), c.explain(), c.policy(),
		c.consent(), c.partner(), c.suppression(), c.sender(), c.queue(), c.pickup(), c.audit(), c.dkim(), c.keys(), c.tls(), c.man(),
	)
	return root
}

// group is a command that only holds others.
func group(use, short string, subs ...*cobra.Command) *cobra.Command {
	g := &cobra.Command{
		Use: use, Short: short, Args: cobra.NoArgs,
		Example: "  " + subs[0].Example[2:],
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	g.AddCommand(subs...)
	return g
}

// configPath is the file given by -c, or the first default that exists.
func (c *command) configPath() string {
	if c.config != "" {
		return c.config
	}
	const here, etc = "gateway.yaml", "/etc/gateway/gateway.yaml"
	if _, err := os.Stat(here); err != nil {
		if _, err := os.Stat(etc); err == nil {
			return etc
		}
	}
	return here
}

func (c *command) loadConfig() (gateway.Config, error) {
	cfg, err := gateway.LoadConfig(c.configPath())
	if err != nil {
		return cfg, usage(err)
	}
	return cfg, nil
}
