package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sort"
	"strings"

	"github.com/spf13/cobra"

	"github.com/phigate/phigate/gateway"
)

func (c *command) scan() *cobra.Command {
	var o gateway.ScanOptions
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "scan PATH…",
		Short: "Say what in messages is health information, and about whom",
		Long: "Scans .eml files, folders of them, or standard input (-). Without --to the To header names the\n" +
			"recipient; the X-Gateway-Audience, -Segment and -Sender-Class headers stand for the flags.",
		Example: "  gateway scan --sender-class covered_entity --audience patients newsletter.eml",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := gateway.NewScan(o)
			if err != nil {
				return usage(err)
			}
			files, err := mailFiles(args)
			if err != nil {
				return usage(err)
			}
			print := c.printScan
			if asJSON {
				print = c.printScanJSON
			}
			return c.scanAll(cmd.Context(), s, files, print)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.From, "from", "", "sender address; default the From header")
	f.StringArrayVar(&o.To, "to", nil, "recipient; may be repeated; default the To header")
	f.StringVar(&o.SenderClass, "sender-class", "", "covered_entity, plan, pharmacy, business_associate or non_health")
	f.StringVar(&o.Audience, "audience", "", "patients, members, staff, prospects or public")
	f.StringVar(&o.Segment, "segment", "", "segment of the list, such as diabetes")
	f.StringVar(&o.Terms, "terms", "", "terms.yaml with house terms")
	f.BoolVar(&o.Explain, "explain", false, "show the text with findings marked and masked, and what would have changed the verdict")
	f.BoolVar(&asJSON, "json", false, "a JSON line per message")
	return cmd
}

// mailFiles lists the files to scan: what is named, and every .eml file in
// folders that are named.
func mailFiles(args []string) ([]string, error) {
	var out []string
	for _, a := range args {
		info, err := os.Stat(a)
		switch {
		case a == "-":
			out = append(out, a)
		case err != nil:
			return nil, err
		case info.IsDir():
			in, err := filepath.Glob(filepath.Join(escapeGlob(a), "*.eml"))
			if err != nil {
				return nil, err
			}
			sort.Strings(in)
			out = append(out, in...)
		default:
			out = append(out, a)
		}
	}
	if len(out) == 0 {
		return nil, errors.New("no .eml files there")
	}
	return out, nil
}

func escapeGlob(s string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(s)
}

// scanAll scans on all cores and prints in the order of the files.
func (c *command) scanAll(ctx context.Context, s *gateway.Scan, files []string, print func(gateway.ScanLine) error) error {
	type job struct {
		line gateway.ScanLine
		err  error
	}
	workers := runtime.GOMAXPROCS(0)
	results := make([]chan job, len(files))
	for i := range results {
		results[i] = make(chan job, 1)
	}
	next := make(chan int)
	go func() {
		defer close(next)
		for i := range files {
			select {
			case next <- i:
			case <-ctx.Done():
				return
			}
		}
	}()
	for range workers {
		go func() {
			for i := range next {
				data, err := c.readMail(files[i])
				if err != nil {
					results[i] <- job{err: err}
					continue
				}
				results[i] <- job{line: s.Line(ctx, files[i], data)}
			}
		}()
	}
	var failed error
	for i := range results {
		select {
		case r := <-results[i]:
			if r.err != nil {
				failed = usage(r.err)
				fmt.Fprintln(c.err, "gateway: "+r.err.Error())
			} else if err := print(r.line); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if failed != nil {
		return &exitError{exitUsage, nil}
	}
	return nil
}

func (c *command) readMail(path string) ([]byte, error) {
	if path == "-" {
		return io.ReadAll(c.in)
	}
	return os.ReadFile(path)
}

func (c *command) printScanJSON(l gateway.ScanLine) error {
	enc := json.NewEncoder(c.out)
	enc.SetEscapeHTML(false)
	return enc.Encode(l)
}

func (c *command) printScan(l gateway.ScanLine) error {
	_, err := l.WriteTo(c.out)
	return err
}
