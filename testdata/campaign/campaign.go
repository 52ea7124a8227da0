// Package campaign is the sample clinic's mail: what `gateway demo` relays and
// the end-to-end tests expect. Between them its mails end in every action that
// a decision can have. All names, addresses and health facts are invented.
package campaign

import (
	"bytes"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
)

//go:embed *.eml *.csv campaign.json senders.yaml
var files embed.FS

// Files holds the mails (NN-name.eml), consents.csv, partners.csv and
// suppressions.csv, campaign.json and senders.yaml.
var Files fs.FS = files

// Campaign lists the mails in the order in which they are sent.
type Campaign struct {
	Servers []Server
	Mails   []Mail
}

// Server is the mail server of a recipient domain.
type Server struct {
	Domain string
	Kind   string // mta-sts, dane, tls, none, broken (an expired certificate)
	Title  string
}

// Mail is one message as a tool submits it.
type Mail struct {
	File   string
	Sender string // of senders.yaml, also its login
	From   string // MAIL FROM
	Title  string // what is special about it
	To     []Recipient
}

// Recipient is one RCPT TO and what becomes of it.
type Recipient struct {
	Address   string
	Code      string // HG-…
	Ends      string // delivered, pickup, held, refused
	Assurance string // of a delivery, at least: none, verified, policy, dane
}

// Load reads campaign.json.
func Load() (Campaign, error) {
	b, err := files.ReadFile("campaign.json")
	if err != nil {
		return Campaign{}, err
	}
	var c Campaign
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&c); err != nil {
		return Campaign{}, fmt.Errorf("campaign.json: %w", err)
	}
	return c, nil
}

// Data returns the text of a mail, CRLF and all.
func (m Mail) Data() ([]byte, error) { return files.ReadFile(m.File) }

// Policy puts the sample organization and its senders in front of the
// detection, transport and rules of a shipped policy.yaml.
func Policy(shipped []byte) ([]byte, error) {
	ours, err := files.ReadFile("senders.yaml")
	if err != nil {
		return nil, err
	}
	at := bytes.Index(shipped, []byte("\ndetection:"))
	if at < 0 {
		return nil, errors.New("campaign: the shipped policy has no detection section after its senders")
	}
	return append(ours, shipped[at:]...), nil
}
