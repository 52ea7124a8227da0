package registry

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// TestBadFiles holds every mistake of the table and the exact lines it gives.
func TestBadFiles(t *testing.T) {
	const consentHeader = "address,type,signed_at,source"
	columns := consents.names()
	for _, c := range []struct {
		name string
		kind Kind
		file string
		err  error
		want []string
	}{
		{"cells, one by one", Consents, rows("address=canary|signed_at=2026-02-30", "type=canary", "method=canary", "purposes=Canary!",
			"expires_at=canary", "revoked_at=canary", "statement_revocation=canary", "document_sha256=canary", "language=canary_canary_canary",
			"signed_at=2026-06-16", "source=", "information="+strings.Repeat("canary", 100), "signer=canary\x01"), ErrBadRows, []string{
			"f.csv:2: address: not an e-mail address, write name@domain.example",
			"f.csv:2: signed_at: not a date, write 2026-02-28",
			"f.csv:3: type: unknown value, write one of hipaa_authorization, part2_consent, treatment_channel, unencrypted_preference, mhmda_collect, mhmda_share, mhmda_sell, tx_marketing, ca_marketing",
			"f.csv:4: method: unknown value, write one of wet, e-sign, voice",
			"f.csv:5: purposes: not a list of tokens, write a-z, 0-9, _ and - joined by ;",
			"f.csv:6: expires_at: not a date, write 2026-02-28",
			"f.csv:7: revoked_at: not a date, write 2026-02-28",
			"f.csv:8: statement_revocation: not a yes or no, write true or false",
			"f.csv:9: document_sha256: not a SHA-256, write its 64 hex digits",
			"f.csv:10: language: not a language tag, write en or es-MX",
			"f.csv:11: signed_at: in the future, write when it happened",
			"f.csv:12: source: missing, it is required",
			"f.csv:13: information: too long, write at most 500 characters",
			"f.csv:14: signer: has control characters, write plain text",
		}},
		{"between cells", Consents, rows("method=voice", "expires_at=2026-01-09", "revoked_at=2026-01-09",
			"type=mhmda_sell|expires_at=2027-01-11", "type=mhmda_sell|expires_at=2027-01-10", "type=tx_marketing|method=voice"), ErrBadRows, []string{
			"f.csv:2: method: voice is no signature for this type, write wet or e-sign",
			"f.csv:3: expires_at: not after signed_at, write a later date",
			"f.csv:4: revoked_at: before signed_at, write a later date",
			"f.csv:5: expires_at: more than one year after signed_at, write an earlier date",
		}},
		{"twice in one file", Consents, rows("", "", "signer=canary"), ErrBadRows, []string{
			"f.csv:4: the same row as line 2 with other content, keep one",
		}},
		{"cells of a row", Consents, consentHeader + "\nana@mail.example,canary\n\n\"a\nb\",canary,1,2,3\n", ErrBadRows, []string{
			"f.csv:2: 2 cells, write 4 as in the header",
			"f.csv:4: 5 cells, write 4 as in the header",
		}},
		{"line of a row behind a long cell", Consents, consentHeader + ",signer\nana@mail.example,treatment_channel,2026-01-01,x,\"Ana\nDiaz\"\ncanary,treatment_channel,2026-01-01,x,\n", ErrBadRows, []string{
			"f.csv:4: address: not an e-mail address, write name@domain.example",
		}},
		{"no header", Consents, "canary@mail.example,hipaa_authorization,canary\n", ErrUnreadable, []string{
			"f.csv:1: no header, write the names of the columns into the first line: " + columns,
		}},
		{"empty", Consents, "", ErrUnreadable, []string{
			"f.csv:1: no header, write the names of the columns into the first line: " + columns,
		}},
		{"header", Consents, "address,canary,type,address,signed_at\nx\n", ErrUnreadable, []string{
			"f.csv:1: column 2: unknown name, use only " + columns,
			"f.csv:1: column 4: address is there twice, remove one",
			"f.csv:1: column source is missing, add it",
		}},
		{"quoting", Consents, consentHeader + "\nana@mail.example,\"treatment_channel\"canary,x,y\n", ErrUnreadable, []string{
			"f.csv:2: broken quoting, close every quote and double those inside",
		}},
		{"open quote", Consents, consentHeader + "\nana@mail.example,\"canary\n", ErrUnreadable, []string{
			"f.csv:2: broken quoting, close every quote and double those inside",
		}},
		{"Latin-1", Consents, consentHeader + "\nana@mail.example,treatment_channel,2026-01-01,ehr\nbo@mail.example,treatment_channel,2026-01-01,caf\xe9 canary\n", ErrUnreadable, []string{
			"f.csv:3: not UTF-8, save the file as UTF-8",
		}},
		{"partners", Partners, partnerHeader + "Acme,business_associate,2026-01-01,2026-01-01,,,transmit," + sha + ",,c,i,\n" +
			"acme,canary,,,,,,,,,,\n" +
			"acme,subcontractor,,,,,,,,c,i,\n" +
			"acme,business_associate,2026-02-01,2026-03-01,2026-02-15,2026-01-15,send," + sha + ",canary:x,c,i,\n" +
			"acme,business_associate,2026-02-01,2026-03-01,2026-02-15,2026-01-15,transmit," + sha + ",,c,i,\n", ErrBadRows, []string{
			"f.csv:2: partner: not a token, write a-z, 0-9 and -",
			"f.csv:3: role: unknown value, write one of business_associate, subcontractor, covered_entity, foundation",
			"f.csv:3: contact: missing, it is required",
			"f.csv:3: incident_contact: missing, it is required",
			"f.csv:4: executed_at: missing, a business associate or subcontractor needs it",
			"f.csv:4: effective_at: missing, a business associate or subcontractor needs it",
			"f.csv:4: functions: missing, a business associate or subcontractor needs it",
			"f.csv:4: document_sha256: missing, a business associate or subcontractor needs it",
			"f.csv:5: functions: unknown value, write any of create, receive, maintain, transmit joined by ;",
			"f.csv:5: services: not a service, write domain:name.example, host:name.example, ip:192.0.2.1 or a product, joined by ;",
			"f.csv:6: expires_at: before the contract began, write a later date",
			"f.csv:6: terminated_at: before the contract began, write a later date",
		}},
		{"suppressions", Suppressions, "at,reason,address,source,expires_at\n2026-06-01,opt_out,ana@mail.example,x,2027-01-01\n2026-07-01,opt_out,ana@mail.example,x,\n" +
			"2026-06-02,hard_bounce,ana@mail.example,x,2026-06-01\n2026-06-02,unsubscribe,ana@mail.example,,\n", ErrBadRows, []string{
			"f.csv:2: expires_at: this reason does not lapse, leave it empty",
			"f.csv:3: at: in the future, write when it happened",
			"f.csv:4: expires_at: not after at, write a later date",
			"f.csv:5: reason: unknown value, write one of opt_out, fundraising_opt_out, complaint, no_email, portal_only, disputed, misdelivered, hard_bounce",
			"f.csv:5: source: missing, it is required",
		}},
	} {
		s := newSite(t)
		report, err := s.Import(t.Context(), c.kind, "f.csv", strings.NewReader(c.file), ImportOptions{})
		if !errors.Is(err, c.err) || report.Applied || len(s.leaves) != 0 && errors.Is(err, ErrUnreadable) {
			t.Errorf("%s: %v, applied %v", c.name, err, report.Applied)
		}
		var got []string
		for _, p := range report.Problems {
			got = append(got, p.String())
		}
		if g, w := strings.Join(got, "\n"), strings.Join(c.want, "\n"); g != w {
			t.Errorf("%s:\n%s\nwant\n%s", c.name, g, w)
		}
		if strings.Contains(strings.ToLower(fmt.Sprint(report, err)), "canary") {
			t.Errorf("%s: a cell was printed", c.name)
		}
		if stored, err := s.ConsentsOf(t.Context(), "ana@mail.example"); err != nil || len(stored) != 0 {
			t.Errorf("%s: %d rows of a bad file were imported", c.name, len(stored))
		}
	}
}

func TestPartial(t *testing.T) {
	s := newSite(t)
	file := rows("", "type=x", "address=bo@mail.example|signer=")
	report, err := s.Import(t.Context(), Consents, "f.csv", strings.NewReader(file), ImportOptions{Partial: true, By: "me"})
	if !errors.Is(err, ErrBadRows) || !report.Applied || report.Counts != (Counts{Rows: 3, Added: 2, Defective: 1, Bad: 1}) {
		t.Fatalf("%v %+v", err, report)
	}
	if len(s.leaves) != 3 || s.leaves[2].Counts != report.Counts || s.leaves[2].File != report.SHA256 || s.leaves[0].ID == "" || s.leaves[0].By != "me" {
		t.Errorf("leaves: %+v", s.leaves)
	}
	again := s.load(t, Consents, rows("", "address=bo@mail.example|signer=Bo"))
	if again.Counts != (Counts{Rows: 2, Unchanged: 1, Changed: 1}) {
		t.Errorf("again: %+v", again.Counts)
	}
	states, err := s.ConsentsOf(t.Context(), "bo@mail.example")
	if err != nil || len(states) != 1 || states[0].Version != 2 || states[0].State != "valid" {
		t.Errorf("%+v %v", states, err)
	}
}

func TestImportStoreGone(t *testing.T) {
	s := newSite(t)
	s.store = gone{}
	if report, err := s.Import(t.Context(), Consents, "f.csv", strings.NewReader(rows("")), ImportOptions{}); !errors.Is(err, ErrStore) || report.Applied {
		t.Error(err)
	}
	if err := s.Export(t.Context(), Consents, &bytes.Buffer{}, "me"); !errors.Is(err, ErrStore) {
		t.Error(err)
	}
}

func TestImportForgivesForm(t *testing.T) {
	s := newSite(t)
	report := s.load(t, Consents, "\ufeffsource, signed_at ,type,address\r\n\"ehr\", 2026-01-01T10:00:00-05:00 ,treatment_channel, Ana@Mail.EXAMPLE \r\n")
	if report.Counts.Added != 1 {
		t.Fatalf("%+v", report)
	}
	states, err := s.ConsentsOf(t.Context(), "ana@mail.example")
	if err != nil || states[0].SignedAt.Format("2006-01-02T15:04:05Z07:00") != "2026-01-01T15:00:00Z" || states[0].Language != "en" {
		t.Errorf("%v %v", states, err)
	}
}

func TestAdd(t *testing.T) {
	s := newSite(t)
	report, err := s.Add(t.Context(), Suppressions, map[string]string{"address": "ana@mail.example", "reason": "opt_out", "source": "=phone", "at": "2026-06-01"}, ImportOptions{By: "me"})
	if err != nil || report.Counts.Added != 1 {
		t.Fatal(err, report)
	}
	list, err := s.SuppressionsOf(t.Context(), "ana@mail.example")
	if err != nil || len(list) != 1 || list[0].Source != "=phone" {
		t.Error(list, err)
	}
	report, err = s.Add(t.Context(), Suppressions, map[string]string{"address": "ana", "reason": "opt_out", "source": "x", "at": "2026-06-01"}, ImportOptions{})
	if !errors.Is(err, ErrBadRows) || report.Problems[0].String() != "arguments:2: address: not an e-mail address, write name@domain.example" {
		t.Error(err, report)
	}
}

// TestExportRoundTrip writes rows of any text out and reads them back: nothing
// changes, and no cell begins a formula.
func TestExportRoundTrip(t *testing.T) {
	text := rapid.StringOfN(rapid.RuneFrom([]rune("ab'=+-@,\"\n;é")), 0, 12, -1)
	rapid.Check(t, func(rt *rapid.T) {
		s := newSite(t)
		word := func() string { return strings.TrimSpace(strings.ReplaceAll(text.Draw(rt, "text"), "|", "")) }
		file := strings.NewReplacer("\x00A", guarded(word()), "\x00B", guarded(word())).Replace(rows("signer=\x00A|information=\x00B"))
		first := s.load(t, Consents, file)
		var out bytes.Buffer
		if err := s.Export(t.Context(), Consents, &out, "me"); err != nil {
			rt.Fatal(err)
		}
		lines, err := csv.NewReader(bytes.NewReader(out.Bytes())).ReadAll()
		if err != nil {
			rt.Fatal(err)
		}
		for _, cell := range slices.Concat(lines...) {
			if cell != "" && strings.ContainsRune(formula, rune(cell[0])) {
				rt.Fatalf("formula in %q", cell)
			}
		}
		again := s.load(t, Consents, out.String())
		if first.Counts.Added != 1 || again.Counts.Unchanged != 1 {
			rt.Fatalf("%q: %+v", out.String(), again.Counts)
		}
	})
}

// guarded is a cell as a careful spreadsheet would write it, inside quotes.
func guarded(cell string) string { return strings.ReplaceAll(guard(cell), `"`, `""`) }

func TestExportPartnersAndSuppressions(t *testing.T) {
	s := newSite(t)
	const partnersFile = partnerHeader + "acme,covered_entity,,,2027-01-01,,receive;transmit,,domain:lab.example;Mailer 9,c,i,2026-12-01T10:00:00Z\n"
	const suppressionsFile = "address,reason,source,at,expires_at\nana@mail.example,hard_bounce,mx,2026-06-01T10:00:00Z,2026-12-31\nbo@mail.example,opt_out,x,2026-06-01,\n"
	for kind, file := range map[Kind]string{Partners: partnersFile, Suppressions: suppressionsFile} {
		s.load(t, kind, file)
		var out bytes.Buffer
		if err := s.Export(t.Context(), kind, &out, "me"); err != nil {
			t.Fatal(err)
		}
		if out.String() != file {
			t.Errorf("got\n%s\nwant\n%s", out.String(), file)
		}
	}
	if last := s.leaves[len(s.leaves)-1]; last.Event != "exported" || last.By != "me" {
		t.Errorf("%+v", last)
	}
}

// FuzzImport feeds any bytes as any kind of file: no panic, and what went in
// comes out as a file that changes nothing.
func FuzzImport(f *testing.F) {
	f.Add([]byte(rows("", "signer==x")))
	f.Add([]byte(fhirBundle))
	f.Add([]byte(partnerHeader + "acme,covered_entity,,,,,,,ip:192.0.2.0/24;x,c,i,\n"))
	f.Add([]byte("\ufeffaddress,reason,source,at\n\"ana@mail.example\",opt_out,'=x,2026-06-01\n"))
	f.Fuzz(func(t *testing.T, file []byte) {
		for _, kind := range []Kind{Consents, Partners, Suppressions} {
			s := newSite(t)
			report, err := s.Import(t.Context(), kind, "f.csv", bytes.NewReader(file), ImportOptions{Partial: true})
			if err != nil && !errors.Is(err, ErrBadRows) {
				continue
			}
			var out bytes.Buffer
			if err := s.Export(t.Context(), kind, &out, "me"); err != nil {
				t.Fatal(err)
			}
			again, err := s.Import(t.Context(), kind, "f.csv", &out, ImportOptions{})
			if err != nil || again.Counts.Added+again.Counts.Changed != 0 || again.Counts.Unchanged != report.Counts.Added {
				t.Fatalf("%v: %+v after %+v", err, again, report)
			}
		}
	})
}

func BenchmarkImport(b *testing.B) {
	const n = 10_000
	changes := make([]string, n)
	for i := range changes {
		changes[i] = fmt.Sprintf("address=p%d@mail.example", i)
	}
	file := rows(changes...)
	b.ReportAllocs()
	for b.Loop() {
		s := newSite(b)
		s.load(b, Consents, file)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/row")
}
