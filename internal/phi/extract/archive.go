package extract

import (
	"archive/zip"
	"bytes"
	"encoding/xml"
	"io"
	"path"
	"sort"
	"strconv"
	"strings"
)

// zip reads an archive, or the office document that is one.
func (w *walker) zip(at spot, l leaf, data []byte) {
	r, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		w.cannot(at.path(), Malformed)
		return
	}
	if l.name == "" && len(at.name) == 0 {
		at = at.named("archive.zip")
	}
	members := map[string]*zip.File{}
	for _, f := range r.File {
		members[f.Name] = f
	}
	switch {
	case members["xl/workbook.xml"] != nil:
		w.workbook(at, members)
	case members["[Content_Types].xml"] != nil || members["content.xml"] != nil && members["mimetype"] != nil:
		w.office(at, l, r.File)
	default:
		w.members(at, r.File)
	}
}

// members reads the files of an ordinary archive.
func (w *walker) members(at spot, files []*zip.File) {
	for _, f := range files {
		if f.FileInfo().IsDir() {
			continue
		}
		in := at.inside(f.Name)
		in.archive++
		if !w.enter(in) {
			if w.entries > w.lim.Entries || w.ctx.Err() != nil {
				return
			}
			continue
		}
		w.add(Part{Path: in.path(), Name: f.Name, Kind: FileName, Text: f.Name})
		if data, ok := w.member(in, f); ok {
			w.content(in, leaf{name: f.Name}, data)
		}
	}
}

// member unpacks one file; what was unpacked of a broken or too large one is
// still returned.
func (w *walker) member(at spot, f *zip.File) ([]byte, bool) {
	if f.Flags&1 != 0 { // APPNOTE 4.4.4: encrypted
		w.cannot(at.path(), Encrypted)
		return nil, false
	}
	r, err := f.Open()
	if err != nil {
		w.cannot(at.path(), Unsupported)
		return nil, false
	}
	defer r.Close()
	data, whole, err := w.readAll(r, int64(f.CompressedSize64))
	switch {
	case !whole:
		w.cannot(at.path(), TooLarge)
	case err != nil:
		w.cannot(at.path(), Malformed)
	}
	return data, len(data) > 0
}

// office reads a text document or slides (OOXML, OpenDocument): every XML part
// that can hold words, and the files embedded in it.
func (w *walker) office(at spot, l leaf, files []*zip.File) {
	var texts []string
	for _, f := range files {
		in := at.inside(f.Name)
		switch {
		case f.FileInfo().IsDir() || f.Flags&1 == 0 && !worded(f.Name) && !embedded(f.Name):
			continue
		case w.ctx.Err() != nil:
			w.cannot(in.path(), Timeout)
			return
		}
		data, ok := w.member(in, f)
		if !ok {
			continue
		}
		if embedded(f.Name) {
			if in.archive++; w.enter(in) {
				w.content(in, leaf{name: f.Name}, data)
			}
			continue
		}
		texts = append(texts, xmlText(bytes.NewReader(data)))
	}
	w.add(Part{Path: at.path(), Kind: File, Text: strings.Join(texts, "\n")})
}

func worded(name string) bool {
	if !strings.HasSuffix(name, ".xml") {
		return false
	}
	for _, no := range []string{"theme/", "styles.xml", "fontTable", "settings.xml", "numbering.xml", "[Content_Types]", "slideLayout", "slideMaster", "META-INF/", "webSettings"} {
		if strings.Contains(name, no) {
			return false
		}
	}
	return true
}

func embedded(name string) bool {
	return strings.Contains(name, "/embeddings/") || strings.HasPrefix(name, "Object ") || strings.Contains(name, "afchunk") || strings.HasSuffix(name, ".docx") || strings.HasSuffix(name, ".xlsx")
}

// xmlText returns the character data of XML, a line per paragraph or row, a tab
// per cell. Broken XML gives what stood before the break.
func xmlText(r io.Reader) string {
	d := xml.NewDecoder(r)
	d.Strict = false
	d.CharsetReader = func(_ string, in io.Reader) (io.Reader, error) { return in, nil }
	var out strings.Builder
	for {
		t, err := d.RawToken()
		if err != nil {
			return out.String()
		}
		switch t := t.(type) {
		case xml.CharData:
			out.Write(t)
		case xml.StartElement:
			switch t.Name.Local {
			case "tab", "s":
				out.WriteByte(' ')
			case "br", "cr", "line-break":
				out.WriteByte('\n')
			}
			for _, a := range t.Attr { // C-CDA and FHIR XML keep values in attributes
				switch a.Name.Local {
				case "displayName", "value", "extension":
					out.WriteString(" " + a.Value + " ")
				}
			}
		case xml.EndElement:
			switch t.Name.Local {
			case "tc", "table-cell":
				out.WriteByte('\t')
			case "p", "h", "tr", "table-row", "title", "creator", "subject", "keywords", "description", "lastModifiedBy", "td", "li", "item":
				if !strings.HasSuffix(out.String()[max(0, out.Len()-1):], "\n") {
					out.WriteByte('\n')
				}
			}
		}
	}
}

// workbook reads spreadsheets, hidden ones too: a line per row, a tab between
// cells, so that the header row stays above its columns.
func (w *walker) workbook(at spot, members map[string]*zip.File) {
	shared := w.sharedStrings(at, members["xl/sharedStrings.xml"])
	names := w.sheetNames(at, members["xl/workbook.xml"])
	var sheets, others []string
	for name := range members {
		switch {
		case strings.HasPrefix(name, "xl/worksheets/") && strings.HasSuffix(name, ".xml"):
			sheets = append(sheets, name)
		case strings.HasPrefix(name, "xl/comments") || strings.HasPrefix(name, "xl/threadedComments") || strings.HasPrefix(name, "docProps/") || strings.HasPrefix(name, "xl/drawings/drawing"):
			others = append(others, name)
		}
	}
	sort.Slice(sheets, func(i, j int) bool { return sheetNumber(sheets[i]) < sheetNumber(sheets[j]) })
	sort.Strings(others)
	for i, name := range sheets {
		title := path.Base(name)
		if i < len(names) {
			title = names[i]
		}
		in := at.inside(title)
		if !w.enter(in) {
			return
		}
		if data, ok := w.member(in, members[name]); ok {
			w.add(Part{Path: in.path(), Name: title, Kind: File, Text: sheetText(data, shared)})
		}
	}
	for _, name := range others {
		in := at.inside(name)
		if data, ok := w.member(in, members[name]); ok {
			w.add(Part{Path: in.path(), Kind: File, Text: xmlText(bytes.NewReader(data))})
		}
	}
}

func sheetNumber(name string) int {
	n, _ := strconv.Atoi(strings.Trim(path.Base(name), "shet.xml"))
	return n
}

func (w *walker) sheetNames(at spot, f *zip.File) (names []string) {
	data, ok := w.member(at, f)
	if !ok {
		return nil
	}
	d := xml.NewDecoder(bytes.NewReader(data))
	for {
		t, err := d.RawToken()
		if err != nil {
			return names
		}
		if e, ok := t.(xml.StartElement); ok && e.Name.Local == "sheet" {
			for _, a := range e.Attr {
				if a.Name.Local == "name" {
					names = append(names, a.Value)
				}
			}
		}
	}
}

func (w *walker) sharedStrings(at spot, f *zip.File) (list []string) {
	if f == nil {
		return nil
	}
	data, ok := w.member(at, f)
	if !ok {
		return nil
	}
	d := xml.NewDecoder(bytes.NewReader(data))
	var s strings.Builder
	for {
		t, err := d.RawToken()
		if err != nil {
			return list
		}
		switch t := t.(type) {
		case xml.StartElement:
			if t.Name.Local == "si" {
				s.Reset()
			}
		case xml.EndElement:
			if t.Name.Local == "si" {
				list = append(list, s.String())
			}
		case xml.CharData:
			s.Write(t)
		}
	}
}

func sheetText(data []byte, shared []string) string {
	d := xml.NewDecoder(bytes.NewReader(data))
	var out strings.Builder
	var kind string
	var value strings.Builder
	inside := false
	for {
		t, err := d.RawToken()
		if err != nil {
			return out.String()
		}
		switch t := t.(type) {
		case xml.StartElement:
			switch t.Name.Local {
			case "c":
				kind = ""
				value.Reset()
				for _, a := range t.Attr {
					if a.Name.Local == "t" {
						kind = a.Value
					}
				}
			case "v", "t":
				inside = true
			}
		case xml.CharData:
			if inside {
				value.Write(t)
			}
		case xml.EndElement:
			switch t.Name.Local {
			case "v", "t":
				inside = false
			case "c":
				out.WriteString(cellText(kind, value.String(), shared))
				out.WriteByte('\t')
			case "row":
				out.WriteByte('\n')
			}
		}
	}
}

func cellText(kind, value string, shared []string) string {
	if kind == "s" {
		if i, err := strconv.Atoi(value); err == nil && i >= 0 && i < len(shared) {
			value = shared[i]
		}
	}
	return strings.NewReplacer("\t", " ", "\n", " ", "\r", "").Replace(value)
}
