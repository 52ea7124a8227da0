package yamlfile

import (
	"encoding"
	"encoding/json"
	"reflect"
)

type schema = map[string]any

// Described is a type that knows its own JSON Schema better than its Go shape tells.
type Described interface{ JSONSchema() map[string]any }

// Schema returns the JSON Schema (draft 2020-12) of the files that [Decode]
// reads into a struct such as v, with id as its "$id". The result is the same
// at every run. Editors find it by a modeline:
//
//	# yaml-language-server: $schema=policy.schema.json
func Schema(v any, id string) ([]byte, error) {
	s := schemaOf(reflect.TypeOf(v))
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["$id"] = id
	out, err := json.MarshalIndent(s, "", "  ")
	return append(out, '\n'), err
}

func schemaOf(t reflect.Type) schema {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	zero := reflect.New(t).Interface()
	if d, ok := zero.(Described); ok {
		return d.JSONSchema()
	}
	if _, ok := zero.(encoding.TextUnmarshaler); ok {
		return textShape(t).schema
	}
	switch t.Kind() {
	case reflect.Struct:
		block := blockSchema(t)
		if s, ok := zero.(Shorthand); ok {
			return schema{"oneOf": []schema{schemaOf(reflect.TypeOf(s.Shorthand()).Elem()), block}}
		}
		return block
	case reflect.Map:
		return schema{"type": "object", "additionalProperties": schemaOf(t.Elem())}
	case reflect.Slice:
		return schema{"type": "array", "items": schemaOf(t.Elem())}
	case reflect.Bool:
		return schema{"type": "boolean"}
	case reflect.String:
		return schema{"type": "string"}
	case reflect.Float64:
		return schema{"type": "number"}
	}
	return schema{"type": "integer"}
}

func blockSchema(t reflect.Type) schema {
	fields, keys := fieldsOf(t)
	properties, required := schema{}, []string{}
	for _, key := range keys {
		f := fields[key]
		p := schemaOf(t.Field(f.index).Type)
		if f.doc != "" {
			p["description"] = f.doc
		}
		properties[key] = p
		if f.required {
			required = append(required, key)
		}
	}
	s := schema{"type": "object", "additionalProperties": false, "properties": properties}
	if len(required) > 0 {
		s["required"] = required
	}
	return s
}
