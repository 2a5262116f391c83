#!/bin/sh
# Takes part in one round of a job with nothing but curl: asks for work, fetches
# the model and posts it back unchanged as this client's update.
#
#   post-update.sh GATEWAY JOB CLIENT [FILE.safetensors]
#
# LIFL_TOKEN holds the client's token, NUM_SAMPLES its number of samples (1).
set -eu

if [ $# -lt 3 ]; then
    sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
gateway=${1%/} job=$2 client=$3 update=${4:-}

ask() {
    curl --silent --show-error --fail-with-body \
        --retry 5 --retry-connrefused --retry-all-errors \
        ${LIFL_TOKEN:+--header "Authorization: Bearer $LIFL_TOKEN"} "$@"
}

field() {
    printf '%s' "$work" | tr -d '\n' | sed -n "s/.*\"$1\": *\"\{0,1\}\([^\",}]*\).*/\1/p"
}

work=$(ask "$gateway/v1/jobs/$job/rounds/current?client=$client")
round=$(field round)
if [ "$(field state)" != open ] || [ "$(field selected)" != true ]; then
    echo "no work for $client now: round $round is $(field state)" >&2
    exit 1
fi

if [ -z "$update" ]; then
    update=$(mktemp)
    trap 'rm -f "$update"' EXIT
    ask --output "$update" "$gateway$(field model_url)"
fi

ask --header "Content-Type: application/vnd.safetensors" \
    --header "Expect:" \
    --header "LIFL-Client: $client" \
    --header "LIFL-Num-Samples: ${NUM_SAMPLES:-1}" \
    --header "LIFL-Base-Version: $(field version)" \
    --data-binary "@$update" \
    "$(field upload_url)"
echo
