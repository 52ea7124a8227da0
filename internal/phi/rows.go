package phi

import (
	"strings"

	"github.com/phigate/phigate/internal/phi/lexicon"
)

// column is what a table column holds.
type column uint8

const (
	columnOther column = iota
	columnPerson
	columnHealth
	columnAnimal
	columnStaff
)

var personHeads = map[string]bool{
	"name": true, "first name": true, "last name": true, "firstname": true, "lastname": true, "first": true, "last": true, "fname": true, "lname": true, "full name": true, "patient": true, "patient name": true, "member": true, "member name": true, "client": true, "client name": true,
	"email": true, "e-mail": true, "email address": true, "emailaddress": true, "mail": true, "to": true, "recipient": true, "contact": true, "contact email": true, "phone": true, "phone number": true, "mobile": true, "cell": true, "ssn": true, "mrn": true, "patient id": true, "patientid": true, "patient_id": true, "member id": true, "memberid": true, "dob": true, "date of birth": true, "birthdate": true, "address": true, "subscriber": true, "subscriber id": true, "guarantor": true, "id": true, "account": true, "pt": true, "pt name": true, "chart": true, "chart no": true, "medicare id": true, "mbi": true, "resident": true, "insured": true, "policy holder": true,
}

var healthHeads = map[string]bool{
	"last visit": true, "next visit": true, "visit": true, "visit date": true, "last appt": true, "next appt": true, "appt": true, "appointment": true, "appointment date": true, "last appointment": true, "next appointment": true, "last seen": true, "dos": true, "date of service": true, "service date": true, "admit": true, "admit date": true, "admission": true, "discharge": true, "discharge date": true, "provider": true, "pcp": true, "physician": true, "doctor": true, "dr": true, "department": true, "clinic": true, "diagnosis": true, "dx": true, "icd": true, "icd10": true, "icd-10": true, "condition": true, "conditions": true, "problem": true, "reason": true, "reason for visit": true, "medication": true, "medications": true, "meds": true, "rx": true, "drug": true, "dose": true, "refill": true, "refill due": true, "last fill": true, "fill date": true, "allergies": true, "allergy": true, "test": true, "result": true, "results": true, "lab": true, "value": true, "procedure": true, "cpt": true, "treatment": true, "therapy": true, "bp": true, "bmi": true, "weight": true, "copay": true, "claim": true, "claim status": true, "plan": true, "insurance": true, "payer": true, "deductible": true, "referral": true, "vaccine": true, "symptoms": true, "symptom": true, "risk": true, "risk score": true, "care gap": true, "gap": true, "notes": true, "status": true, "due date": true, "due": true, "balance": true, "health plan": true, "group": true, "therapist": true, "surgeon": true, "surgery": true, "surgery date": true,
}

// staffHeads name people who work, not people who are cared for.
var staffHeads = map[string]bool{
	"manager": true, "author": true, "provider": true, "physician": true, "doctor": true, "nurse": true, "attending": true, "surgeon": true, "therapist": true, "owner": true, "staff": true, "employee": true, "supervisor": true, "lead": true, "director": true, "speaker": true, "instructor": true, "coder": true, "user": true, "created by": true, "entered by": true, "assigned to": true, "pcp": true, "dr": true, "agent": true, "rep": true, "sender": true,
}

// vagueHeads need a health term in the cell, or another health column.
var vagueHeads = map[string]bool{
	"provider": true, "department": true, "status": true, "notes": true, "value": true, "result": true, "results": true, "test": true, "plan": true, "group": true, "due date": true, "due": true, "balance": true, "reason": true, "problem": true, "risk": true, "weight": true, "condition": true, "insurance": true, "visit": true, "treatment": true, "last visit": true, "claim": true, "claim status": true, "next visit": true, "visit date": true, "gap": true, "doctor": true, "dose": true, "appointment": true, "appt": true, "appointment date": true, "next appointment": true, "last appointment": true,
}

// rows finds tables (CSV, spreadsheets, HTML tables, columns typed into a mail)
// whose header names a person and a health column, and counts the rows that
// fill both.
func (r *reader) rows(t *text) {
	var head []column
	var vague []bool
	var sep byte
	var width int
	for at := 0; at < len(t.src); {
		end := strings.IndexByte(t.src[at:], '\n')
		if end < 0 {
			end = len(t.src)
		} else {
			end += at
		}
		line := t.src[at:end]
		switch {
		case head == nil || strings.IndexByte(line, sep) < 0:
			head, vague, sep, width = r.header(t, at, line)
		default:
			r.row(t, at, line, head, vague, sep, width)
		}
		at = end + 1
		if r.doc.rows >= 5000 {
			return
		}
	}
}

// header classifies a line that may be the head of a table.
func (r *reader) header(t *text, at int, line string) (head []column, vague []bool, sep byte, width int) {
	if len(line) < 5 || len(line) > 2000 {
		return nil, nil, 0, 0
	}
	for _, c := range []byte("\t|,;") {
		if !headLike(line, c) {
			continue
		}
		cells := splitRow(line, c)
		head, vague = make([]column, len(cells)), make([]bool, len(cells))
		people, health, animals, staff := 0, 0, 0, 0
		for i, cell := range cells {
			head[i], vague[i] = r.columnOf(cell.text)
			switch head[i] {
			case columnPerson:
				people++
			case columnHealth:
				health++
			case columnAnimal:
				animals++
			}
			if staffHeads[headWords(cell.text)] {
				staff++
			}
		}
		if staff > 0 && people == 0 {
			r.staffColumns(t, at+len(line), c, cells)
		}
		if (people > 0 && health > 0 || people > 1) && animals == 0 {
			return head, vague, c, len(cells)
		}
	}
	return nil, nil, 0, 0
}

// headLike rejects prose early: the cells of a table's head are short, and one
// of the first three is known.
func headLike(line string, sep byte) bool {
	known := false
	for n := 0; n < 3; n++ {
		end := strings.IndexByte(line, sep)
		if end < 0 && n == 0 {
			return false
		}
		cell := line
		if end >= 0 {
			cell = line[:end]
		}
		if len(cell) > 40 || strings.Count(cell, " ") > 4 {
			return false
		}
		known = known || knownHead(cell)
		if end < 0 {
			break
		}
		line = line[end+1:]
	}
	return known
}

// knownHead looks a head up without allocating.
func knownHead(cell string) bool {
	var b [40]byte
	h := appendHead(b[:0], cell)
	return personHeads[string(h)] || healthHeads[string(h)] || staffHeads[string(h)] || len(h) > 3 && string(h[len(h)-3:]) == " id"
}

// columnOf tells what a column holds by its head.
func (r *reader) columnOf(head string) (column, bool) {
	h := headWords(head)
	switch {
	case h == "":
		return columnOther, false
	case personHeads[h] && h != "id" && h != "to" && h != "first" && h != "last" || len(h) > 3 && strings.HasSuffix(h, " id"):
		return columnPerson, false
	case h == "species" || h == "breed" || h == "pet" || h == "pet name":
		return columnAnimal, false
	case healthHeads[h]:
		return columnHealth, vagueHeads[h]
	}
	if term := r.phrase(h); term != nil && (term.Tier == lexicon.Specific || term.Tier == lexicon.Caring) {
		return columnHealth, false
	}
	return columnOther, false
}

// headWords brings "Patient_Name:" and "patient name" together.
func headWords(head string) string {
	var b [40]byte
	if len(head) > len(b) {
		return ""
	}
	return string(appendHead(b[:0], head))
}

func appendHead(out []byte, head string) []byte {
	gap := false
	for i := 0; i < len(head); i++ {
		c := head[i]
		switch c {
		case '_', ' ', '.', '#', ':', '*', '"', '\r':
			gap = len(out) > 0
			continue
		}
		if class[c] == classUpper {
			c |= 0x20
		}
		if gap {
			out = append(out, ' ')
			gap = false
		}
		out = append(out, c)
	}
	return out
}

// staffColumns marks the names in columns of staff as no patients.
func (r *reader) staffColumns(t *text, at int, sep byte, head []cell) {
	for at < len(t.src) {
		end := strings.IndexByte(t.src[at+1:], '\n')
		if end < 0 {
			end = len(t.src) - at - 1
		}
		line := t.src[at+1 : at+1+end]
		if strings.IndexByte(line, sep) < 0 {
			return
		}
		for i, c := range splitRow(line, sep) {
			if i < len(head) && staffHeads[headWords(head[i].text)] {
				r.staffIn(uint32(at+1+c.start), uint32(at+1+c.start+len(c.text)))
			}
		}
		at += 1 + end
	}
}

func (r *reader) staffIn(start, end uint32) {
	for i := range r.ids {
		if x := &r.ids[i]; x.start >= start && x.start < end {
			x.noPatient = true
		}
	}
}

// phrase looks a whole short phrase up.
func (r *reader) phrase(s string) *lexicon.Term {
	var best *lexicon.Term
	var word []byte
	var state uint64
	n, on := 0, true
	step := func() {
		if len(word) > 0 && on {
			state, n, on = r.scanner.lx.Step(state, lexicon.Stem(word))
			best = nil
			if n > 0 && r.scanner.lx.Term(n).Kind > lexicon.Figure {
				best = r.scanner.lx.Term(n)
			}
		} else if len(word) > 0 {
			best = nil
		}
		word = word[:0]
	}
	for i := 0; i < len(s); i++ {
		if isAlnum(s[i]) {
			word = append(word, s[i])
		} else {
			step()
		}
	}
	step()
	return best
}

type cell struct {
	text  string
	start int // in the line
}

// splitRow cuts a line at sep, honouring double quotes.
func splitRow(line string, sep byte) []cell {
	var cells []cell
	start, quoted := 0, false
	for i := 0; i <= len(line); i++ {
		switch {
		case i == len(line) || line[i] == sep && !quoted:
			text := strings.Trim(line[start:i], " \r\"")
			cells = append(cells, cell{text, start})
			start = i + 1
			if len(cells) > 200 {
				return cells
			}
		case line[i] == '"':
			quoted = !quoted
		}
	}
	return cells
}

// row records one filled row as a fact about a person.
func (r *reader) row(t *text, at int, line string, head []column, vague []bool, sep byte, width int) {
	cells := splitRow(line, sep)
	if len(cells)*2 < width {
		return
	}
	person, health, sure := -1, -1, false
	for i, c := range cells {
		if i >= len(head) || !filled(c.text) {
			continue
		}
		switch {
		case head[i] == columnPerson && person < 0:
			person = i
		case head[i] == columnHealth:
			if health < 0 || !sure {
				health = i
			}
			sure = sure || !vague[i] || r.clinicalIn(t, at+c.start, at+c.start+len(c.text))
		case head[i] == columnOther && !sure && r.clinicalIn(t, at+c.start, at+c.start+len(c.text)):
			health, sure = i, true
		}
	}
	if person < 0 || health < 0 {
		return
	}
	r.doc.rows++
	if r.doc.rows > 20 {
		return
	}
	m := r.cellMention(t, at+cells[health].start, cells[health].text, sure)
	if m == nil {
		return
	}
	r.keep(t, m, fact{who: rowPerson, i: .95, tie: tieRow, r: 1, concrete: true})
	first := seek(t.tokens, uint32(at+cells[person].start))
	if int(first) < len(t.tokens) {
		start := uint32(at + cells[person].start)
		r.add(t, ident{rule: ruleRow, start: start, end: start + uint32(len(cells[person].text)), score: .5})
	}
}

// filled reports a cell that holds a value: not blank, not a merge tag.
func filled(s string) bool {
	if s == "" || s == "-" || s == "N/A" || s == "n/a" || strings.Trim(s, "_. ") == "" {
		return false
	}
	return mergeTag(s) < 0
}

// clinicalIn reports whether a sure health term lies in t.src[from:to].
func (r *reader) clinicalIn(t *text, from, to int) bool {
	for i := range t.mentions {
		m := &t.mentions[i]
		if s := int(t.tokens[m.first].start); s >= from && s < to && (m.term.Tier == lexicon.Specific || m.term.Tier == lexicon.Caring) {
			return true
		}
	}
	return false
}

// cellMention makes a mention of a health cell: the term in it, or the cell as
// a care event.
func (r *reader) cellMention(t *text, at int, cell string, sure bool) *mention {
	first := seek(t.tokens, uint32(at))
	last := seek(t.tokens, uint32(at+len(cell)))
	if int(first) >= len(t.tokens) {
		return nil
	}
	for i := range t.mentions {
		if m := &t.mentions[i]; m.first >= first && m.first <= last && m.term.Tier == lexicon.Specific {
			return m
		}
	}
	term := lexicon.Term{Kind: lexicon.Care, Tier: lexicon.Weak}
	if sure {
		term.Tier = lexicon.Caring
	}
	return &mention{&term, first, max(first+1, min(last, int32(len(t.tokens)))), t.tokens[first].sentence}
}

// mergeTag returns where an unfilled merge slot stands in s, -1 if nowhere:
// {{name}}, *|NAME|*, %NAME%, [First Name], <<name>>, <Patient Name>, ${name}.
func mergeTag(s string) int {
	for i := 0; i < len(s); i++ {
		if slotOpens[s[i]] && (toolSlot(s[i:]) || namedSlot(s[i:])) {
			return i
		}
	}
	return -1
}

var slotOpens = [256]bool{'{': true, '*': true, '%': true, '<': true, '$': true, '[': true, '#': true}

// toolSlot reports a slot in the double brackets of a mailing tool at the start of s.
func toolSlot(s string) bool {
	if len(s) < 5 {
		return false
	}
	end := ""
	switch s[:2] {
	case "{{":
		end = "}}"
	case "*|":
		end = "|*"
	case "%%", "{%":
		end = "%}"
		if s[0] == '%' {
			end = "%%"
		}
	case "<<":
		end = ">>"
	case "${":
		end = "}"
	case "[[":
		end = "]]"
	default:
		return false
	}
	return strings.Index(s[2:min(len(s), 64)], end) > 0
}

// namedSlot reports one of slotWords in single brackets at the start of s.
func namedSlot(s string) bool {
	var end byte
	switch s[0] {
	case '{':
		end = '}'
	case '%', '#':
		end = s[0]
	case '[':
		end = ']'
	case '<':
		end = '>'
	default:
		return false
	}
	s = s[1:min(len(s), 33)]
	n := strings.IndexByte(s, end)
	return n > 2 && slotName(s[:n])
}

// slotWords are parts of the names that mailing tools give to merge slots.
var slotWords = []string{"name", "first", "last", "date", "time", "drug", "medic", "provider", "doctor", "patient", "member", "appt", "appointment", "recipient", "contact", "test", "condition", "location", "phone", "address", "field"}

// slotName reports letters, spaces and underscores around one of slotWords.
func slotName(s string) bool {
	if run(s, func(c byte) bool { return isAlnum(c) || c == '_' || c == ' ' || c == '.' || c == '-' }) != len(s) {
		return false
	}
	s = strings.ToLower(s)
	for _, w := range slotWords {
		if strings.Contains(s, w) {
			return true
		}
	}
	return false
}

// proofSubject reports the marks that mailing tools and people set on a test
// send: "[TEST] …", "Proof: …".
func proofSubject(s string) bool {
	s = strings.ToLower(strings.TrimSpace(s))
	for _, w := range []string{"test", "proof", "preview", "draft", "sample", "template"} {
		if strings.HasPrefix(s, "["+w) || strings.HasPrefix(s, w+":") || strings.HasPrefix(s, "("+w+")") || strings.HasPrefix(s, "<"+w) || strings.HasPrefix(s, w+" -") || w != "test" && w != "sample" && strings.HasPrefix(s, w+" ") {
			return true
		}
	}
	return false
}
