package campaign_test

import (
	"bytes"
	"encoding/csv"
	"io/fs"
	"net/mail"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/phigate/phigate/testdata/campaign"
)

func load(t *testing.T) campaign.Campaign {
	t.Helper()
	c, err := campaign.Load()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestEveryMailIsListedAndReadable(t *testing.T) {
	files, err := fs.Glob(campaign.Files, "*.eml")
	if err != nil {
		t.Fatal(err)
	}
	var listed []string
	for _, m := range load(t).Mails {
		listed = append(listed, m.File)
		b, err := m.Data()
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(bytes.ReplaceAll(b, []byte("\r\n"), nil), []byte("\n")) {
			t.Errorf("%s: a line does not end in CRLF", m.File)
		}
		msg, err := mail.ReadMessage(bytes.NewReader(b))
		if err != nil {
			t.Errorf("%s: %v", m.File, err)
			continue
		}
		if from := msg.Header.Get("From"); !strings.Contains(from, "@valleyclinic.example") {
			t.Errorf("%s: From %q", m.File, from)
		}
	}
	if !slices.Equal(files, listed) {
		t.Errorf("files and list differ:\n%v\n%v", files, listed)
	}
}

func TestCampaignCoversEveryEnd(t *testing.T) {
	c := load(t)
	domains, ends, kinds := map[string]string{}, map[string]int{}, map[string]bool{}
	for _, s := range c.Servers {
		domains[s.Domain] = s.Kind
		kinds[s.Kind] = true
	}
	for _, m := range c.Mails {
		for _, r := range m.To {
			ends[r.Ends]++
			_, domain, _ := strings.Cut(r.Address, "@")
			if domains[domain] == "" {
				t.Errorf("%s: no server for %s", m.File, domain)
			}
			if !strings.HasPrefix(r.Code, "HG-") || (r.Ends == "delivered") != (r.Assurance != "") {
				t.Errorf("%s: %+v", m.File, r)
			}
		}
	}
	for _, end := range []string{"delivered", "pickup", "held", "refused"} {
		if ends[end] == 0 {
			t.Errorf("no mail is %s", end)
		}
	}
	for _, kind := range []string{"mta-sts", "dane", "tls", "none", "broken"} {
		if !kinds[kind] {
			t.Errorf("no server of kind %s", kind)
		}
	}
	if len(c.Mails) < 16 || len(ends) != 4 {
		t.Errorf("%d mails, ends %v", len(c.Mails), ends)
	}
}

func TestSendersAndRecordsFit(t *testing.T) {
	policy, err := campaign.Policy([]byte("version: 1\nsenders: []\ndetection: {medium: 0.6}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(policy), "senders: []") || !strings.Contains(string(policy), "\ndetection: {medium: 0.6}\n") {
		t.Errorf("policy is not the two parts:\n%s", policy)
	}
	if _, err := campaign.Policy([]byte("version: 1\n")); err == nil {
		t.Error("a policy without rules was taken")
	}
	for _, m := range load(t).Mails {
		if !strings.Contains(string(policy), "login: "+m.Sender+"\n") {
			t.Errorf("%s: no sender %s", m.File, m.Sender)
		}
	}
	for _, name := range []string{"consents.csv", "partners.csv", "suppressions.csv"} {
		f, err := campaign.Files.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		if rows, err := csv.NewReader(f).ReadAll(); err != nil || len(rows) < 4 {
			t.Errorf("%s: %d rows, %v", name, len(rows), err)
		}
		f.Close()
	}
}

// Nothing in the sample may reach a real person or host (RFC 2606).
func TestOnlyReservedNames(t *testing.T) {
	files, err := fs.Glob(campaign.Files, "*")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		b, err := fs.ReadFile(campaign.Files, name)
		if err != nil {
			t.Fatal(err)
		}
		if path.Ext(name) == ".eml" {
			b = bytes.ReplaceAll(b, []byte("=\r\n"), nil)
		}
		for _, word := range strings.FieldsFunc(string(b), func(r rune) bool { return strings.ContainsRune(" \r\n<>\"',;:()[]/=", r) }) {
			if _, domain, ok := strings.Cut(word, "@"); ok && !strings.HasSuffix(domain, ".example") {
				t.Errorf("%s: %q is not a reserved name", name, word)
			}
		}
	}
}
