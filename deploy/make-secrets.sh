#!/bin/sh
# Makes the files of docker-compose.yml's secrets, in secrets/ or the folder named; what is there already stays as it is.
#   sh deploy/make-secrets.sh [FOLDER]
# The folder is its owner's alone. The files in it can be read by anybody who gets that far, because the programs run as another
# user than you, and Compose hands each file to the programs that need it as it is.
set -eu
folder=${1:-secrets}
umask 077
mkdir -p "$folder"
chmod 700 "$folder"

random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

keep() { # NAME VALUE: unless the file is there
  [ -s "$folder/$1" ] || printf '%s' "$2" > "$folder/$1"
}

keep postgres_password "$(random)"
keep billing_database_url "postgresql://billing:$(cat "$folder/postgres_password")@postgres:5432/billing"
keep gateway_internal_token "$(random)"
keep grafana_password "$(random)"
keep billing_caller_token "$(random)"
keep billing_admin_token "$(random)"

# Who may call (docs/security.md): hashes alone. In a folder of its own, which is mounted as one, so that a file that is replaced is seen.
mkdir -p "$folder/access"
hash() { tr -d '\n' < "$folder/$1" | sha256sum | cut -d' ' -f1; }
line() { printf 'token        %-10s %-8s sha256:%s\n' "$2" "$3" "$(hash "$1")"; }
if [ ! -s "$folder/access/callers" ]; then
  {
    line billing_caller_token backend caller
    line billing_admin_token operator admin
    line gateway_internal_token gateway gateway
    # With docker-compose.tls.yml: who has a certificate and shows no token.
    echo 'certificate  backend    caller   caller.billing.internal'
    echo 'certificate  operator   admin    operator.billing.internal'
    echo 'certificate  gateway    gateway  gateway.billing.internal'
  } > "$folder/access/callers"
elif ! grep -q "$(hash gateway_internal_token)" "$folder/access/callers"; then
  # Of a release in which the service had the gateway's token itself. A whole file, because a running service reads it.
  { cat "$folder/access/callers"; echo; line gateway_internal_token gateway gateway; } > "$folder/callers.new"
  chmod 644 "$folder/callers.new"
  mv "$folder/callers.new" "$folder/access/callers"
fi
rm -f "$folder/billing_internal_token" # as above; the service knows the hash

missing=0
for name in billing_stripe_api_key gateway_webhook_secrets; do
  [ -s "$folder/$name" ] || { : > "$folder/$name"; missing=1; }
done
chmod 755 "$folder/access"
chmod 644 "$folder"/access/*
for file in "$folder"/*; do [ -d "$file" ] || chmod 644 "$file"; done

if [ "$missing" = 1 ]; then
  echo "Yours to fill in (docs/getting-started.md says where they come from):"
  echo "  $folder/billing_stripe_api_key     the account's secret key, or better a restricted one: sk_test_... or rk_test_..."
  echo "  $folder/gateway_webhook_secrets    the signing secret of the webhook endpoint, as name=whsec_..."
fi
