#!/bin/sh
# Makes certificates for the programs and for who calls them, in secrets/tls/, or the folder named; for development, and for an
# installation that has no authority of its own. docs/operations.md says how they are used.
#   sh deploy/make-certificates.sh [FOLDER [NAME...]]
# One authority of 10 years, whose key (authority/key.pem) belongs on no machine that answers calls; it stays as it is. Certificates of 90 days,
# new ones at each run: the programs take them while they run. NAMEs: only these are made anew (service, gateway, operator, caller).
set -eu
folder=${1:-secrets/tls}
[ $# -eq 0 ] || shift
[ $# -gt 0 ] || set -- service gateway operator caller
umask 077
mkdir -p "$folder/authority"

new_key() { openssl genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1"; }

if [ ! -s "$folder/authority/certificate.pem" ]; then
  new_key "$folder/authority/key.pem"
  openssl req -x509 -new -key "$folder/authority/key.pem" -sha256 -days 3650 -subj "/CN=billing authority" \
    -addext "basicConstraints=critical,CA:TRUE,pathlen:0" -addext "keyUsage=critical,keyCertSign" \
    -out "$folder/authority/certificate.pem"
fi

make() { # NAME: the certificate that NAME shows, its key, and whom it trusts, in a folder of its own
  mkdir -p "$folder/$1"
  chmod 755 "$folder/$1"
  new_key "$folder/$1/key.pem.new"
  openssl req -new -key "$folder/$1/key.pem.new" -subj "/CN=$1" |
    openssl x509 -req -CA "$folder/authority/certificate.pem" -CAkey "$folder/authority/key.pem" -days 90 -sha256 \
      -set_serial "0x$(openssl rand -hex 16)" -extfile "$folder/authority/$1.cnf" -out "$folder/$1/certificate.pem.new" 2>/dev/null
  cp "$folder/authority/certificate.pem" "$folder/$1/authority.pem.new"
  # Anybody who gets into the folder may read them, because the programs run as another user than you.
  chmod 644 "$folder/$1"/*.new
  # Whole files, one after the other: a program that sees one without the other keeps what it has until it sees both.
  for file in authority key certificate; do mv "$folder/$1/$file.pem.new" "$folder/$1/$file.pem"; done
}

for name in "$@"; do
  case $name in
    # What callers and the gateway reach it by: in Compose, on Kubernetes, from this machine.
    service) use=serverAuth names=DNS:service,DNS:billing-service,DNS:billing-internal,DNS:localhost,IP:127.0.0.1 ;;
    # The others show who they are; the access file says what that is allowed to do.
    gateway | operator | caller) use=clientAuth names=DNS:$name.billing.internal ;;
    *) echo "nothing is called $name: service, gateway, operator, caller" >&2; exit 2 ;;
  esac
  printf 'basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=%s\nsubjectAltName=%s\n' "$use" "$names" \
    > "$folder/authority/$name.cnf"
  make "$name"
  rm "$folder/authority/$name.cnf"
done
chmod 755 "$folder" # what is in it is guarded by the folder of the secrets, and authority/ by itself
