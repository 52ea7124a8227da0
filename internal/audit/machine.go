package audit

import (
	"fmt"
	"time"

	"github.com/phigate/phigate/policy"
)

// object is a JSON object of a foreign schema.
type object map[string]any

// fate is what an event means for its mail, in the words of both schemas.
type fate struct {
	action      int // OCSF action_id: 1 allowed, 2 denied
	disposition int // OCSF disposition_id
	outcome     int // FHIR R4 audit-event-outcome: 0 success, 4 minor failure
}

func (k Kind) fate() fate {
	switch k {
	case Delivered, Pickup, Complained: // a complaint is about mail that arrived
		return fate{1, 1, 0} // allowed
	case Released:
		return fate{1, 8, 4} // approved; nothing was disclosed by that alone
	case Held:
		return fate{2, 3, 4} // quarantined
	case Deferred:
		return fate{2, 14, 4} // delayed
	case Cancelled, Recalled:
		return fate{2, 5, 4} // deleted
	}
	return fate{2, 2, 4} // blocked
}

// ocsf is an Email Activity (class 4009) of OCSF 1.7.0 with the security control profile.
func (l *Log) ocsf(e Entry) any {
	const class, send = 4009, 1
	says, _ := policy.Lookup(e.Code)
	f := e.Kind.fate()
	return object{
		"category_uid": 4, "class_uid": class, "class_name": "Email Activity",
		"activity_id": send, "activity_name": "Send", "type_uid": class*100 + send,
		"time": e.Time.UnixMilli(), "severity_id": 1, "message": says.Reason,
		"action_id": f.action, "disposition_id": f.disposition,
		"direction_id": 2, "direction": "Outbound",
		"status_code":       string(e.Code),
		"email":             object{"from": e.Return.Clear(), "to": addresses(e.Recipient), "uid": string(e.ID)},
		"message_trace_uid": string(e.ID),
		"policy":            object{"uid": e.Policy, "name": e.Rule},
		"metadata": object{
			"version": "1.7.0", "profiles": []string{"security_control"}, "uid": fmt.Sprint(e.N), "log_name": l.o.Origin,
			"product": object{"name": "HIPAAGateway", "vendor_name": "Open", "version": l.o.Build},
		},
		"unmapped": object{"event": e.Kind, "sender": e.Sender, "partner": e.Partner, "leaf_hash": e.hash.String(), "law": says.Law},
	}
}

func addresses(a policy.Address) []string {
	if a == "" {
		return nil
	}
	return []string{a.Clear()}
}

const (
	dcm = "http://dicom.nema.org/resources/ontology/DCM"

	machineName  = "1" // FHIR R4 network-type
	emailAddress = "4"
)

// fhir is an AuditEvent of FHIR R4 after IHE BALP's PrivacyDisclosure.Source
// pattern; mail that was not let go is one with a failure as outcome.
func (l *Log) fhir(e Entry) any {
	says, _ := policy.Lookup(e.Code)
	gateway := object{"display": l.o.Origin}
	recipient := object{"identifier": object{"value": e.Recipient.Clear()}}
	if e.Recipient == "" {
		recipient = object{"display": "unknown"}
	}
	return object{
		"resourceType": "AuditEvent",
		"id":           fmt.Sprintf("leaf-%d", e.N),
		"meta":         object{"profile": []string{"https://profiles.ihe.net/ITI/BALP/StructureDefinition/IHE.BasicAudit.PrivacyDisclosure.Source"}},
		"type":         coding(dcm, "110106", "Export"),
		"subtype":      []object{coding("http://terminology.hl7.org/CodeSystem/iso-21089-lifecycle", "disclose", "Disclose Record Lifecycle Event")},
		"action":       "R",
		"recorded":     e.Time.Format(time.RFC3339Nano),
		"outcome":      fmt.Sprint(e.Kind.fate().outcome),
		"outcomeDesc":  fmt.Sprintf("%s %s %s", e.Kind, e.Code, says.Reason),
		"agent": []object{
			agent("110153", "Source Role ID", gateway, l.o.Origin, machineName),
			agent("110152", "Destination Role ID", recipient, e.Recipient.Clear(), emailAddress),
		},
		"source": object{"observer": gateway},
		"entity": []object{
			{
				"what": recipient,
				"type": coding("http://terminology.hl7.org/CodeSystem/audit-entity-type", "1", "Person"),
				"role": coding("http://terminology.hl7.org/CodeSystem/object-role", "1", "Patient"),
			},
			{
				"what": object{"identifier": object{"value": string(e.ID)}},
				"type": coding("http://terminology.hl7.org/CodeSystem/audit-entity-type", "2", "System Object"),
				"role": coding("http://terminology.hl7.org/CodeSystem/object-role", "3", "Report"),
				"detail": []object{
					{"type": "rule", "valueString": orNone(e.Rule)}, {"type": "policy", "valueString": orNone(e.Policy)},
					{"type": "sender", "valueString": orNone(e.Sender)}, {"type": "leaf", "valueString": e.hash.String()},
				},
			},
		},
	}
}

func coding(system, code, display string) object {
	return object{"system": system, "code": code, "display": display}
}

func agent(role, display string, who object, address, kind string) object {
	a := object{
		"type": object{"coding": []object{coding(dcm, role, display)}}, "who": who, "requestor": role == "110153",
	}
	if address != "" {
		a["network"] = object{"address": address, "type": kind}
	}
	return a
}

// orNone keeps an empty text out of FHIR, which forbids it.
func orNone(s string) string { return firstOf(s, "none") }
