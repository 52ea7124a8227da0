#!/bin/bash
# Installs the real peers that the end-to-end tests talk to, from Debian's
# packages, and only what is missing. Postfix is installed as packages are.
# Exim and OpenSMTPD are mail transport agents too, and Debian lets a machine
# have one: theirs are unpacked into a folder, whose name is the last line of
# the output.
set -euo pipefail

export DEBIAN_FRONTEND=noninteractive
folder=${E2E_PEERS:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/phigate-e2e}

installed=(
	postfix                                       # also posttls-finger, the oracle
	unbound nsd ldnsutils                         # validating resolver, signed zones
	swaks libnet-ssleay-perl                      # mail from the command line
	python3 python3-dkim python3-dnspython        # smtplib; a DKIM verifier of another make
	openssl tcpdump iproute2 util-linux ca-certificates
	chromium chromium-driver python3-selenium     # the patient's phone
	libdb5.3 libgnutls-dane0 libidn12 libldap-2.5-0 libmariadb3 libnsl2 libpam0g # for Exim
	libpcre2-8-0 libperl5.36 libpq5 libsasl2-2 libspf2-2 libsqlite3-0
	libevent-2.1-7                                # for OpenSMTPD
)
unpacked=(exim4-daemon-heavy opensmtpd)

missing=()
for package in "${installed[@]}"; do
	dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done
# The archives of an earlier run are good for as long as their programs start.
for package in "${unpacked[@]}"; do
	[ -e "$folder/$package.done" ] || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
	apt-get update -q >&2
fi

packages=()
for package in "${missing[@]}"; do
	[[ " ${unpacked[*]} " == *" $package "* ]] || packages+=("$package")
done
if [ ${#packages[@]} -gt 0 ]; then
	# No service may start by itself: the tests start their own.
	policy=/usr/sbin/policy-rc.d
	if [ ! -e $policy ]; then
		printf '#!/bin/sh\nexit 101\n' >$policy
		chmod 755 $policy
		trap 'rm -f /usr/sbin/policy-rc.d' EXIT
	fi
	apt-get install -q -y --no-install-recommends "${packages[@]}" >&2
fi

mkdir -p "$folder"
for package in "${unpacked[@]}"; do
	[ -e "$folder/$package.done" ] && continue
	work=$(mktemp -d)
	(cd "$work" && apt-get download -q "$package" >&2 && dpkg-deb -x "$package"_*.deb "$folder")
	rm -rf "$work"
	touch "$folder/$package.done"
done

for program in "$folder/usr/sbin/exim4" "$folder/usr/sbin/smtpd"; do
	if ldd "$program" | grep 'not found' >&2; then
		echo "$program lacks a library" >&2
		exit 1
	fi
done
echo "$folder"
