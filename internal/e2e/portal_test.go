//go:build e2e

package e2e

import (
	"strings"
	"testing"
)

// patient is a phone: Chromium, 360 points wide, told what to do in the order
// in which a patient does it. It prints what the patient sees.
const patient = `
import email, email.policy, glob, re, sys, time
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

box, user = sys.argv[1], sys.argv[2]

def mails():
    for path in sorted(glob.glob(box + "/*")):
        m = email.message_from_binary_file(open(path, "rb"), policy=email.policy.default)
        if m["To"] and user in m["To"]:
            yield m

def find(pattern):
    for _ in range(300):
        for m in mails():
            body = m.get_body(("plain",))
            hit = re.search(pattern, (m["Subject"] or "") + "\n" + (body.get_content() if body else ""))
            if hit:
                return hit.group(0)
        time.sleep(0.1)
    sys.exit("no mail has " + pattern)

options = Options()
options.binary_location = "/usr/bin/chromium"
for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu",
             "--ignore-certificate-errors", "--user-data-dir=/srv/chromium"):
    options.add_argument(flag)
options.add_experimental_option("mobileEmulation", {"deviceMetrics": {"width": 360, "height": 740, "pixelRatio": 2.0}})
browser = webdriver.Chrome(service=Service("/usr/bin/chromedriver"), options=options)
browser.implicitly_wait(10)

def look():
    wide = browser.execute_script("return document.documentElement.scrollWidth > window.innerWidth")
    print("PAGE", browser.title, "| sideways" if wide else "|", browser.find_element(By.TAG_NAME, "main").text.replace("\n", " / "))

def enter(code):
    field = browser.find_element(By.ID, "code")
    field.clear()
    field.send_keys(code)
    field.submit()

try:
    browser.get(find(r"https://gateway\.clinic\.test:8443/p/\S+"))
    look()
    browser.find_element(By.CSS_SELECTOR, "form[action$='/code'] button").click()
    browser.find_element(By.ID, "code")
    code = find(r"\b\d{6}\b")
    enter("000000" if code != "000000" else "000001")
    browser.find_element(By.ID, "wrong")
    look()
    enter(code)
    browser.find_element(By.TAG_NAME, "article")
    look()
    browser.find_element(By.CSS_SELECTOR, "form[action$='/leave'] button").click()
    time.sleep(0.5)
    look()
finally:
    browser.quit()
`

// A patient whose mail server offers no TLS reads the message on a phone.
func TestPatientPicksUpOnAPhone(t *testing.T) {
	s := newSite(t)
	canary := "mark-for-the-patient"
	out, err := swaks("ehr", "rosa.diaz@clear.open.test", letter(t, "pickup", "A message for you", strings.ReplaceAll(phiBody, "%s", canary)))
	if err != nil {
		t.Fatal(err)
	}
	id := idOf(out)
	if got := s.outcome(id, "rosa.diaz@clear.open.test"); got != "pickup HG-L703" {
		t.Fatalf("outcome %q", got)
	}
	seen, err := python(t, patient, base+"/mail/clear.open.test/new", "rosa.diaz@clear.open.test")
	if err != nil {
		t.Fatal(err)
	}
	pages := strings.Split(seen, "PAGE ")[1:]
	if len(pages) != 4 {
		t.Fatalf("the patient saw %d pages\n%s", len(pages), seen)
	}
	for i, page := range pages {
		if strings.Contains(page, "| sideways") {
			t.Errorf("page %d is wider than a phone", i+1)
		}
		if has := strings.Contains(page, canary); has != (i == 2) {
			t.Errorf("page %d shows the message: %v\n%s", i+1, has, page)
		}
		title, _, _ := strings.Cut(page, "|")
		if strings.Contains(title, "HbA1c") || strings.Contains(title, "A message for you") {
			t.Errorf("the title of page %d tells: %s", i+1, title)
		}
	}
	read := false
	for _, r := range s.rows("audit", "list", "--id", id) {
		read = read || r.Event == "read"
	}
	if !read {
		t.Error("the reading is not in the audit log")
	}
	if got := marked("clear.open.test", canary); len(got) > 0 {
		t.Error("the message was mailed in clear")
	}
}
