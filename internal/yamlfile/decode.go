// Package yamlfile reads the YAML files of the gateway strictly and names every
// mistake by file, line and column, all at once.
//
// [Decode] walks the syntax tree against a Go struct whose fields carry
// `yaml:"key"` or `yaml:"key,required"` and `doc:"one line"` tags. Refused are
// unknown and repeated keys, values of the wrong type, keys without a value,
// anchors, aliases, merge keys, tags, directives and further documents: what a
// reader cannot see on the line must not change what the file means. Nothing is
// read from the environment. [Schema] writes the JSON Schema of the same struct.
package yamlfile

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Limits on what is handed to the parser: it takes quadratic time on deep nesting
// and on blocks of very many keys.
const (
	maxBytes = 1 << 20
	maxDepth = 32
)

// Shorthand is a struct that may also be written as something shorter: any
// value but a block is decoded into what Shorthand points to, a field of the
// receiver.
type Shorthand interface{ Shorthand() any }

// File remembers where the values of a decoded file stand.
type File struct {
	name   string
	at     map[string]place // of values
	keys   map[string]place
	broken map[string]bool // paths with a mistake in or below them
}

type place struct{ line, column int }

// At returns the position of the value at path, such as "rules[2].when.class[1]".
// If the file has no such value, it is that of the innermost block around it.
func (f *File) At(path string) (line, column int) {
	for ; path != ""; path = parent(path) {
		if p, ok := f.at[path]; ok {
			return p.line, p.column
		}
	}
	if p, ok := f.at[""]; ok {
		return p.line, p.column
	}
	return 1, 1
}

func parent(path string) string {
	return path[:max(0, strings.LastIndexAny(path, ".["))]
}

// Has reports whether the file has a value at path.
func (f *File) Has(path string) bool { _, ok := f.at[path]; return ok }

// Sound reports whether Decode found no mistake at path or below it, so that
// checks of the meaning are worth while there.
func (f *File) Sound(path string) bool { return !f.broken[path] }

// Problem returns a problem with the value at path.
func (f *File) Problem(path, what, hint string) Problem {
	line, column := f.At(path)
	return Problem{f.name, line, column, what, hint}
}

// KeyProblem returns a problem with the key of the value at path, for blocks
// whose keys the caller knows.
func (f *File) KeyProblem(path, what, hint string) Problem {
	p, ok := f.keys[path]
	if !ok {
		return f.Problem(path, what, hint)
	}
	return Problem{f.name, p.line, p.column, what, hint}
}

// Decode reads data into the struct that into points to and returns every
// mistake, sorted; name is how messages call the file. Fields whose keys are
// left out keep their values, so defaults are set before. With problems, into
// holds what could be read and must not be used but for further checks.
//
// Fields may be bool, string, ints, float64, slices, map[string]T, structs,
// pointers to these, and types that implement [encoding.TextUnmarshaler],
// whose error becomes the message and must not repeat the text. Decode panics
// on any other type.
func Decode(name string, data []byte, into any) (*File, Problems) {
	d := &decoder{File: &File{name: name, at: map[string]place{}, keys: map[string]place{}, broken: map[string]bool{}}}
	if root := d.parse(data); root != nil {
		d.value("", root, reflect.ValueOf(into).Elem())
	}
	return d.File, d.problems.Sorted()
}

type decoder struct {
	*File
	problems Problems
}

func (d *decoder) report(path string, p place, what, hint string) {
	d.problems = append(d.problems, Problem{d.name, p.line, p.column, what, hint})
	for ; path != ""; path = parent(path) {
		d.broken[path] = true
	}
	d.broken[""] = true
}

// parse returns the one document of the file, nil with a problem reported.
func (d *decoder) parse(data []byte) ast.Node {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if what, at := unreadable(data); what != "" {
		d.report("", at, what, "")
		return nil
	}
	file, err := parse(data)
	if err != nil {
		d.report("", err.at, err.what, "")
		return nil
	}
	for i, doc := range file.Docs {
		switch body := doc.Body.(type) {
		case nil:
		case *ast.DirectiveNode:
			d.report("", where(body), "directives are not allowed", "remove the line that starts with %")
			return nil
		default:
			if i+1 < len(file.Docs) {
				d.report("", where(file.Docs[i+1].Body), "a second document", "keep one document in the file, without --- lines")
			}
			return body
		}
	}
	d.report("", place{1, 1}, "the file is empty", "")
	return nil
}

// unreadable names the first byte that no YAML text may hold.
func unreadable(data []byte) (string, place) {
	if len(data) > maxBytes {
		return fmt.Sprintf("the file is larger than %v", Size(maxBytes)), place{1, 1}
	}
	at := place{1, 1}
	for i := 0; i < len(data); {
		r, n := utf8.DecodeRune(data[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			return "not UTF-8 text", at
		case r == '\n':
			at = place{at.line + 1, 0}
		case r < ' ' && r != '\t' && r != '\r', r == 0x7f:
			return "a control character, remove it", at
		}
		at.column++
		i += n
	}
	return "", at
}

type syntaxError struct {
	what string
	at   place
}

// parse guards the parser: against nesting that would take it minutes, and
// against a panic, which must not end a running gateway that reloads a file.
func parse(data []byte) (file *ast.File, failed *syntaxError) {
	defer func() {
		if recover() != nil {
			file, failed = nil, &syntaxError{"not readable as YAML", place{1, 1}}
		}
	}()
	tokens := lexer.Tokenize(string(data))
	if at := tooDeep(tokens); at != (place{}) {
		return nil, &syntaxError{fmt.Sprintf("nested more than %d deep", maxDepth), at}
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err == nil {
		return file, nil
	}
	failed = &syntaxError{"not readable as YAML", place{1, 1}}
	var syntax *yaml.SyntaxError
	if errors.As(err, &syntax) {
		failed.what += ": " + syntax.GetMessage()
		if t := syntax.GetToken(); t != nil && t.Position != nil {
			failed.at = place{t.Position.Line, t.Position.Column}
		}
	}
	return nil, failed
}

// tooDeep returns where brackets, or indicators on one line, nest too deep.
func tooDeep(tokens token.Tokens) place {
	brackets, indicators, line := 0, 0, 0
	for _, t := range tokens {
		if t.Position.Line != line {
			line, indicators = t.Position.Line, 0
		}
		switch t.Type {
		case token.SequenceStartType, token.MappingStartType:
			brackets++
		case token.SequenceEndType, token.MappingEndType:
			brackets--
		case token.SequenceEntryType, token.MappingKeyType, token.AnchorType, token.TagType:
			indicators++
		}
		// Nesting by indentation needs ever longer lines, so the size of the
		// file bounds it.
		if brackets > maxDepth || indicators > maxDepth {
			return place{t.Position.Line, t.Position.Column}
		}
	}
	return place{}
}

// where returns the position at which a reader sees the node begin.
func where(n ast.Node) place {
	switch n := n.(type) {
	case nil:
		return place{1, 1}
	case *ast.MappingNode:
		if !n.IsFlowStyle && len(n.Values) > 0 {
			return where(n.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return where(n.Key)
	}
	p := n.GetToken().Position
	return place{p.Line, p.Column}
}

// value decodes one node into v.
func (d *decoder) value(path string, n ast.Node, v reflect.Value) {
	d.at[path] = where(n)
	if what, hint := hidden(n); what != "" {
		d.report(path, where(n), what, hint)
		return
	}
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		v = v.Elem()
	}
	if _, null := n.(*ast.NullNode); null {
		d.report(path, where(n), label(path)+"no value", "write "+describe(v.Type())+" or remove it")
		return
	}
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		d.text(path, n, v, u)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		d.block(path, n, v)
	case reflect.Map:
		d.table(path, n, v)
	case reflect.Slice:
		d.list(path, n, v)
	default:
		d.scalar(path, n, v)
	}
}

// hidden names the parts of YAML by which a file can mean something else than
// it seems to.
func hidden(n ast.Node) (what, hint string) {
	switch n.(type) {
	case *ast.AnchorNode:
		return "anchors (&) are not allowed", "write the value out at each place"
	case *ast.AliasNode:
		return "aliases (*) are not allowed", "write the value out"
	case *ast.TagNode:
		return "tags (!) are not allowed", "remove the tag"
	}
	return "", ""
}

func (d *decoder) wrong(path string, n ast.Node, t reflect.Type) {
	hint := ""
	if _, scalar := scalarText(n); scalar && t.Kind() == reflect.String {
		hint = "put it in quotes"
	}
	d.report(path, where(n), label(path)+"want "+describe(t), hint)
}

// label starts a message with the key it is about.
func label(path string) string {
	if i := strings.LastIndexByte(path, '.'); i >= 0 {
		path = path[i+1:]
	}
	if i := strings.IndexByte(path, '['); i >= 0 {
		path = path[:i]
	}
	if path == "" {
		return ""
	}
	return path + ": "
}

func (d *decoder) text(path string, n ast.Node, v reflect.Value, u encoding.TextUnmarshaler) {
	s, ok := scalarText(n)
	if !ok {
		d.wrong(path, n, v.Type())
		return
	}
	err := u.UnmarshalText([]byte(s))
	switch _, noisy := foreign[v.Type()]; {
	case err != nil && noisy:
		d.wrong(path, n, v.Type())
	case err != nil:
		d.report(path, where(n), label(path)+err.Error(), "")
	}
}

// scalarText returns a scalar as it was written.
func scalarText(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, true
	}
	return "", false
}

func (d *decoder) scalar(path string, n ast.Node, v reflect.Value) {
	s, ok := scalarText(n)
	_, quoted := n.(*ast.StringNode)
	_, literal := n.(*ast.LiteralNode)
	var err error
	switch isText := quoted || literal; v.Kind() {
	case reflect.String:
		ok = ok && isText
		if ok {
			v.SetString(s)
		}
	case reflect.Bool:
		b, isBool := n.(*ast.BoolNode)
		ok = isBool
		if ok {
			v.SetBool(b.Value)
		}
	case reflect.Int, reflect.Int32, reflect.Int64:
		var i int64
		i, err = strconv.ParseInt(s, 10, v.Type().Bits())
		v.SetInt(i)
		ok = ok && !isText
	case reflect.Uint16, reflect.Uint32, reflect.Uint64:
		var i uint64
		i, err = strconv.ParseUint(s, 10, v.Type().Bits())
		v.SetUint(i)
		ok = ok && !isText
	case reflect.Float64:
		var f float64
		f, err = strconv.ParseFloat(s, 64)
		v.SetFloat(f)
		_, isInt := n.(*ast.IntegerNode)
		_, isFloat := n.(*ast.FloatNode)
		ok = isInt || isFloat
	default:
		panic("yamlfile: no rule for a field of type " + v.Type().String())
	}
	if !ok || err != nil {
		d.wrong(path, n, v.Type())
	}
}

func (d *decoder) list(path string, n ast.Node, v reflect.Value) {
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		d.wrong(path, n, v.Type())
		return
	}
	out := reflect.MakeSlice(v.Type(), len(seq.Values), len(seq.Values))
	for i, e := range seq.Values {
		d.value(fmt.Sprintf("%s[%d]", path, i), e, out.Index(i))
	}
	v.Set(out)
}

// entries calls each for every key of a block that is new and plain.
func (d *decoder) entries(path string, n ast.Node, each func(key string, k, v ast.Node)) bool {
	var values []*ast.MappingValueNode
	switch n := n.(type) {
	case *ast.MappingNode:
		values = n.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{n}
	default:
		return false
	}
	first := map[string]place{}
	for _, e := range values {
		if e.Key.IsMergeKey() {
			d.report(path, where(e.Key), "merge keys (<<) are not allowed", "write the keys out")
			continue
		}
		key, ok := scalarText(e.Key)
		if !ok {
			d.report(path, where(e.Key), "a key that is not a plain word", "")
			continue
		}
		if p, seen := first[key]; seen {
			d.report(path, where(e.Key), fmt.Sprintf("key %s is repeated", quote(key)), fmt.Sprintf("remove one, the first is on line %d", p.line))
			continue
		}
		first[key] = where(e.Key)
		d.keys[join(path, key)] = first[key]
		each(key, e.Key, e.Value)
	}
	return true
}

// quote shows a key, shortened: what stands left of a colon by mistake may be long.
func quote(key string) string {
	if r := []rune(key); len(r) > 40 {
		key = string(r[:40]) + "…"
	}
	return strconv.Quote(key)
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func (d *decoder) table(path string, n ast.Node, v reflect.Value) {
	out := reflect.MakeMap(v.Type())
	ok := d.entries(path, n, func(key string, _, value ast.Node) {
		e := reflect.New(v.Type().Elem()).Elem()
		d.value(join(path, key), value, e)
		out.SetMapIndex(reflect.ValueOf(key).Convert(v.Type().Key()), e)
	})
	if !ok {
		d.wrong(path, n, v.Type())
		return
	}
	v.Set(out)
}

func (d *decoder) block(path string, n ast.Node, v reflect.Value) {
	fields, keys := fieldsOf(v.Type())
	seen := map[string]bool{}
	ok := d.entries(path, n, func(key string, k, value ast.Node) {
		f, known := fields[key]
		if !known {
			d.report(path, where(k), "unknown key "+quote(key), Suggest(key, keys))
			return
		}
		seen[key] = true
		d.value(join(path, key), value, v.Field(f.index))
	})
	if s, short := v.Addr().Interface().(Shorthand); !ok && short {
		d.value(path, n, reflect.ValueOf(s.Shorthand()).Elem())
		return
	}
	if !ok {
		d.wrong(path, n, v.Type())
		return
	}
	for _, key := range keys {
		if f := fields[key]; f.required && !seen[key] {
			d.report(path, where(n), fmt.Sprintf("key %q is missing", key), "add "+describe(v.Type().Field(f.index).Type))
		}
	}
}

// Suggest returns the hint for a word that is not among known.
func Suggest(key string, known []string) string {
	if near := Nearest(key, known); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	return "use one of " + strings.Join(known, ", ")
}

type field struct {
	index    int
	required bool
	doc      string
}

// fieldsOf returns the fields of a struct by key, and the keys in their order.
// A field without a yaml tag, or with `yaml:"-"`, is none of the file's.
func fieldsOf(t reflect.Type) (map[string]field, []string) {
	fields, keys := map[string]field{}, []string(nil)
	for i := range t.NumField() {
		f := t.Field(i)
		key, option, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if key == "" || key == "-" {
			continue
		}
		fields[key] = field{i, option == "required", f.Tag.Get("doc")}
		keys = append(keys, key)
	}
	return fields, keys
}

// describe says in words what a value of type t looks like.
func describe(t reflect.Type) string {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
		return textShape(t).words
	}
	switch t.Kind() {
	case reflect.Struct:
		if s, ok := reflect.New(t).Interface().(Shorthand); ok {
			return describe(reflect.TypeOf(s.Shorthand()).Elem())
		}
		return "a block of keys"
	case reflect.Map:
		return "a block of keys"
	case reflect.Slice:
		return "a list in [ ]"
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "text"
	case reflect.Float64:
		return "a number"
	}
	return "a whole number"
}
