package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"

	"github.com/spf13/cobra"

	"github.com/phigate/phigate/gateway"
)

// siteVerb is a command that works on a site: on the stopped one by opening it,
// on the running one through its admin socket.
type siteVerb struct {
	cmd  *cobra.Command
	file int     // index of the argument that names a file to read, or one of the two below
	path *string // or the flag that does, if it is set
	do   func(ctx context.Context, g *gateway.Gateway, args []string, in input) error
}

const (
	noInput   = -1
	fromStdin = -2
)

// input is the file a verb reads.
type input struct {
	io.Reader
	name string // as the person named it, for messages
}

// nameFlag carries the name of a file whose content is sent to a running gateway.
const nameFlag = "input-name"

// watchFlag says that progress is worth drawing on the other side of the socket.
const watchFlag = "watched"

// site turns a verb into a runnable command.
func (c *command) site(v siteVerb) *cobra.Command {
	var name string
	v.cmd.Flags().StringVar(&name, nameFlag, "", "")
	v.cmd.Flags().MarkHidden(nameFlag)
	v.cmd.Flags().BoolVar(&c.watched, watchFlag, false, "")
	v.cmd.Flags().MarkHidden(watchFlag)
	v.cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if v.path != nil && *v.path != "" {
			v.file, args = len(args), append(args, *v.path)
		}
		in, err := c.open(v.file, args)
		if err != nil {
			return err
		}
		defer in.close()
		if name != "" {
			in.name = name
		}
		if c.live != nil {
			return v.do(cmd.Context(), c.live, args, in.input)
		}
		cfg, err := c.loadConfig()
		if err != nil {
			return err
		}
		sent, err := c.send(cmd, cfg, in.input)
		if sent || err != nil {
			return err
		}
		g, err := gateway.Open(cmd.Context(), cfg, gateway.Options{})
		if err != nil {
			return unreachable(err)
		}
		defer g.Close()
		return v.do(cmd.Context(), g, args, in.input)
	}
	return v.cmd
}

// opened is an input with the file behind it.
type opened struct {
	input
	close func() error
}

// open opens the file a verb reads; "-" is standard input. A command that came
// through the admin socket finds the content there, whatever the argument says.
func (c *command) open(arg int, args []string) (opened, error) {
	none := func() error { return nil }
	if arg == noInput {
		return opened{input{http.NoBody, ""}, none}, nil
	}
	if arg == fromStdin || arg >= len(args) || args[arg] == "-" || c.live != nil {
		return opened{input{c.in, "standard input"}, none}, nil
	}
	f, err := os.Open(args[arg])
	if err != nil {
		return opened{}, usage(err)
	}
	return opened{input{f, args[arg]}, f.Close}, nil
}

// send has a running gateway carry out the command line. It reports false if
// none is running.
func (c *command) send(cmd *cobra.Command, cfg gateway.Config, in input) (bool, error) {
	args := append([]string{}, c.args...)
	if in.name != "" {
		args = append(args, "--"+nameFlag+"="+in.name)
	}
	if c.terminal() {
		args = append(args, "--"+watchFlag)
	}
	if by := cmd.Flags().Lookup("by"); by != nil { // only this side of the socket knows who it is
		args = append(args, "--by="+person(by.Value.String()))
	}
	status, err := gateway.RunRemote(cmd.Context(), cfg.AdminSocket, args, in, c.out, c.err)
	switch {
	case errors.Is(err, gateway.ErrNotRunning):
		return false, nil
	case err != nil:
		return true, unreachable(err)
	case status != exitDone:
		return true, &exitError{status, nil}
	}
	return true, nil
}
