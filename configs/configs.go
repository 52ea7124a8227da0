// Package configs carries the shipped files, so that the binary alone can set up
// a gateway.
package configs

import _ "embed"

// Gateway is gateway.yaml: a commented configuration.
//
//go:embed gateway.yaml
var Gateway []byte

// GatewaySchema is the JSON Schema of gateway.yaml.
//
//go:embed gateway.schema.json
var GatewaySchema []byte

// Policy is policy.yaml: the decision table, with a clinic as the example.
//
//go:embed policy.yaml
var Policy []byte

// PolicyTest is policy_test.yaml: at least one case for each row of the table.
//
//go:embed policy_test.yaml
var PolicyTest []byte

// PolicySchema is the JSON Schema of policy.yaml.
//
//go:embed policy.schema.json
var PolicySchema []byte

// PolicyTestSchema is the JSON Schema of policy_test.yaml.
//
//go:embed policy_test.schema.json
var PolicyTestSchema []byte

// Shaping is shaping.yaml: how fast mail goes to each provider.
//
//go:embed shaping.yaml
var Shaping []byte

// ShapingSchema is the JSON Schema of shaping.yaml.
//
//go:embed shaping.schema.json
var ShapingSchema []byte
