package phi

import "github.com/phigate/phigate/internal/phi/lexicon"

// Group says whether a finding tells who, or tells of health.
type Group string

// The groups of a finding.
const (
	Identifier Group = "identifier"
	Health     Group = "health"
)

// Rule describes one way to find something; explain and the console show it.
type Rule struct {
	ID    string
	Kind  string // such as "SSN", "CONDITION"
	Group Group
	About string // one sentence
}

// rule numbers a row of Rules.
type rule uint8

const (
	ruleNameAddressee rule = iota
	ruleNameLabelled
	ruleNameDictionary
	ruleAddressStreet
	ruleGeoPlace
	ruleGeoZIP
	ruleFacility
	ruleDOB
	ruleDateService
	ruleDate
	ruleAge90
	rulePhone
	ruleFax
	ruleEmail
	ruleSSN
	ruleSSNLabelled
	ruleITIN
	ruleMRN
	ruleMBI
	rulePlanID
	ruleAccount
	ruleCard
	ruleRouting
	ruleLicense
	ruleDEA
	ruleNPI
	ruleCLIA
	ruleVIN
	rulePlate
	ruleDevice
	ruleMAC
	ruleURL
	ruleIP
	ruleRxNumber
	ruleOtherID
	ruleRow
	ruleFormat
	ruleCondition
	ruleDrug
	ruleProcedure
	ruleCare
	ruleProvider
	ruleRx
	rulePayment
	ruleResult
	ruleBody
	ruleICD
	ruleHCPCS
	ruleNDC
	ruleLOINC
	ruleSNOMED
	ruleRelation
	ruleSegment
	ruleCount
)

var rules = [ruleCount]Rule{
	ruleNameAddressee:  {"name-addressee", "NAME", Identifier, "The recipient's name, in a greeting or in the To field."},
	ruleNameLabelled:   {"name-labelled", "NAME", Identifier, "A name behind a label such as Patient or Member name."},
	ruleNameDictionary: {"name-dictionary", "NAME", Identifier, "A first and a last name from the name lists, or a title and a surname."},
	ruleAddressStreet:  {"address-street", "ADDRESS", Identifier, "House number, street words and a street suffix."},
	ruleGeoPlace:       {"geo-place", "ADDRESS", Identifier, "A town with its state."},
	ruleGeoZIP:         {"geo-zip5", "ADDRESS", Identifier, "A state and a ZIP code, or a labelled ZIP code."},
	ruleFacility:       {"facility", "ADDRESS", Identifier, "A named hospital or clinic where somebody is said to have been."},
	ruleDOB:            {"dob-labelled", "DATE", Identifier, "A date behind a label such as DOB or born on."},
	ruleDateService:    {"date-service", "DATE", Identifier, "A date beside a word of care: visit, admission, surgery, fill."},
	ruleDate:           {"date", "DATE", Identifier, "A full date; weak by itself."},
	ruleAge90:          {"age-90", "DATE", Identifier, "An age of 90 or more (45 CFR 164.514(b)(2)(i)(C))."},
	rulePhone:          {"phone", "PHONE", Identifier, "A North American telephone number that is neither toll-free nor reserved."},
	ruleFax:            {"fax", "FAX", Identifier, "A telephone number behind the label fax."},
	ruleEmail:          {"email", "EMAIL", Identifier, "An e-mail address in the text."},
	ruleSSN:            {"ssn", "SSN", Identifier, "A social security number with separators and a valid area, group and serial."},
	ruleSSNLabelled:    {"ssn-labelled", "SSN", Identifier, "Nine digits, or the last four, behind a social security label."},
	ruleITIN:           {"itin", "SSN", Identifier, "A taxpayer number of the 9xx range behind its label."},
	ruleMRN:            {"mrn", "MRN", Identifier, "A medical record, chart, patient, encounter or accession number behind its label."},
	ruleMBI:            {"mbi", "HEALTHPLAN", Identifier, "A Medicare Beneficiary Identifier (CMS format)."},
	rulePlanID:         {"plan-id", "HEALTHPLAN", Identifier, "A member, policy, group, claim or authorization number behind its label."},
	ruleAccount:        {"account", "ACCOUNT", Identifier, "An account or statement number behind its label."},
	ruleCard:           {"card", "ACCOUNT", Identifier, "A payment card number with a known prefix and a valid Luhn digit."},
	ruleRouting:        {"bank-routing", "ACCOUNT", Identifier, "A bank routing number with a valid ABA checksum behind its label."},
	ruleLicense:        {"license", "CERT_LICENSE", Identifier, "A driver or professional licence number behind its label."},
	ruleDEA:            {"dea", "CERT_LICENSE", Identifier, "A prescriber's DEA number with a valid checksum."},
	ruleNPI:            {"npi", "CERT_LICENSE", Identifier, "A National Provider Identifier behind its label."},
	ruleCLIA:           {"clia", "CERT_LICENSE", Identifier, "A laboratory's CLIA number behind its label."},
	ruleVIN:            {"vin", "VEHICLE", Identifier, "A vehicle identification number with a valid check digit."},
	rulePlate:          {"plate", "VEHICLE", Identifier, "A licence plate behind its label."},
	ruleDevice:         {"device", "DEVICE", Identifier, "A serial, lot or implant number behind its label, or a UDI."},
	ruleMAC:            {"mac-imei", "DEVICE", Identifier, "A hardware address, or an IMEI with a valid Luhn digit behind its label."},
	ruleURL:            {"url-personal", "URL", Identifier, "A web address; one that points into a patient's records weighs more."},
	ruleIP:             {"ip", "IP", Identifier, "A public IP address."},
	ruleRxNumber:       {"rx-number", "OTHER_ID", Identifier, "A prescription number behind its label."},
	ruleOtherID:        {"other-id", "OTHER_ID", Identifier, "A passport, study, employee, badge or user id behind its label."},
	ruleRow:            {"table-row", "ROW", Identifier, "A table row that holds a person's identifier and a health column."},
	ruleFormat:         {"clinical-format", "FORMAT", Identifier, "A format that carries patient records: HL7, X12, C-CDA, FHIR, DICOM."},
	ruleCondition:      {"condition", "CONDITION", Health, "A disease, injury or symptom."},
	ruleDrug:           {"drug", "DRUG", Health, "A medicine."},
	ruleProcedure:      {"procedure", "PROCEDURE", Health, "A test, an operation, a therapy or a vaccine."},
	ruleCare:           {"care-event", "CARE_EVENT", Health, "A visit, an admission, a referral or another act of care."},
	ruleProvider:       {"provider", "PROVIDER", Health, "A medical specialty or facility."},
	ruleRx:             {"prescription", "RX", Health, "A prescription or its refill."},
	rulePayment:        {"payment", "PAYMENT", Health, "Payment for care: claim, copay, benefits."},
	ruleResult:         {"result", "RESULT", Health, "A test result or report."},
	ruleBody:           {"body", "BODY", Health, "A measurement or part of the body."},
	ruleICD:            {"icd10", "CODE", Health, "A billable ICD-10-CM code."},
	ruleHCPCS:          {"procedure-code", "CODE", Health, "A HCPCS, CPT, CDT or DRG code behind its label."},
	ruleNDC:            {"ndc", "CODE", Health, "A National Drug Code."},
	ruleLOINC:          {"loinc", "CODE", Health, "A LOINC code with a valid check digit behind its label."},
	ruleSNOMED:         {"snomed", "CODE", Health, "A SNOMED CT code with a valid Verhoeff digit behind its label."},
	ruleRelation:       {"care-relationship", "CARE_EVENT", Health, "Words that make the reader a patient or member of the sender."},
	ruleSegment:        {"segment", "CARE_EVENT", Health, "A tag, list or campaign named after patients or a condition."},
}

// Rules returns every rule the scanner knows.
func Rules() []Rule { return rules[:] }

var kindRule = [...]rule{
	lexicon.Condition: ruleCondition, lexicon.Drug: ruleDrug, lexicon.Procedure: ruleProcedure, lexicon.Care: ruleCare, lexicon.Provider: ruleProvider,
	lexicon.Rx: ruleRx, lexicon.Payment: rulePayment, lexicon.Result: ruleResult, lexicon.Body: ruleBody,
}

var kindWord = [...]string{
	lexicon.NoKind: "care relationship", lexicon.Condition: "condition", lexicon.Drug: "drug", lexicon.Procedure: "procedure", lexicon.Care: "care event", lexicon.Provider: "provider",
	lexicon.Rx: "prescription", lexicon.Payment: "payment", lexicon.Result: "result", lexicon.Body: "body",
}
