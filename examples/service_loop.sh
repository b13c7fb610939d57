#!/bin/sh
# A worker of a study in a shell script: curl, jq and awk are all it needs.
#
#   autowarmup serve studies
#   sh examples/service_loop.sh http://127.0.0.1:8700 clouds [TOKEN_FILE]
#
# It trains a logistic regression to tell two clouds of points apart, with SGD in awk, and prints the schedule that the
# study finds. It keeps no trial: each part of one is trained from its start with the same seed, and only the steps that
# the service doesn't have are reported.
set -eu

url=$1 study=$2 client=sh-$$
token=${3:+$(awk '{ print $NF }' "$3")}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# ask METHOD PATH [BODY]: the answer. Where the service doesn't answer, it is asked again.
ask() {
    curl --silent --show-error --retry 20 --retry-connrefused --retry-max-time 600 --fail-with-body \
        --request "$1" --header 'Content-Type: application/json' ${token:+--header "Authorization: Bearer $token"} \
        ${3:+--data "$3"} "$url/v1/studies/$study$2"
}

# train SEED EVAL_EVERY UNTIL < RATES: a line for each step: its loss, its gradient's norm, and the validation loss or "-".
train() {
    awk -v seed="$1" -v every="$2" -v until="$3" '
        function uniform() { state = (16807 * state) % 2147483647; return state / 2147483647 }
        function normal() { return sqrt(-2 * log(uniform())) * cos(6.283185307179586 * uniform()) }
        function point() { label = uniform() < 0.5; x = normal() + 1.5 * label; y = normal() - 1.5 * label }
        function loss(  z) {
            z = a * x + b * y + c
            slope = (z > 0 ? 1 / (1 + exp(-z)) : exp(z) / (1 + exp(z))) - label
            return (z > 0 ? z + log(1 + exp(-z)) : log(1 + exp(z))) - label * z
        }
        function validation(  i, sum, kept) {  # on points that are the same for all seeds
            kept = state; state = 99
            for (i = 0; i < 200; i++) { point(); sum += loss() }
            state = kept
            return sum / 200
        }
        BEGIN { state = seed % 2147483646 + 1; for (i = 0; i < 5; i++) uniform(); a = normal(); b = normal(); c = 0 }
        { rates[NR] = $1 }
        END {
            for (step = 1; step <= until; step++) {
                total = da = db = dc = 0
                for (i = 0; i < 16; i++) { point(); total += loss(); da += slope * x; db += slope * y; dc += slope }
                a -= rates[step] * da / 16; b -= rates[step] * db / 16; c -= rates[step] * dc / 16
                checked = step % every == 0 || step == NR ? sprintf("%.9g", validation()) : "-"
                printf "%.9g %.9g %s\n", total / 16, sqrt(da * da + db * db + dc * dc) / 16, checked
            }
        }'
}

# report LEASE SEQ UNTIL KNOWN < LINES: the report of the steps after KNOWN.
report() {
    jq --raw-input --slurp --compact-output --arg lease "$1" --argjson seq "$2" --argjson until "$3" --argjson known "$4" '
        def number: tonumber? // null;  # "nan" and "inf" are no numbers of JSON
        split("\n") | map(select(. != "") | split(" ")) | to_entries | .[$known:] | {
            lease: $lease, seq: $seq, steps: $until,
            losses: map(.value[0] | number), grad_norms: map(.value[1] | number),
            validation: map(select(.value[2] != "-") | {step: (.key + 1), val_loss: (.value[2] | number)})
        }'
}

# trial LEASED: trains a trial until the service tells it to pause or to stop.
trial() {
    set -- $(echo "$1" | jq --raw-output '[.spec.number, .spec.seed, .eval_every, .until, .steps, .lease, .seq] | @tsv')
    number=$1 seed=$2 every=$3 until=$4 known=$5 lease=$6 seq=$7 action=go_on
    ask GET "/trials/$number/learning-rates" | jq '.rates[]' > "$work/rates"
    while [ "$action" = go_on ]; do
        seq=$((seq + 1))
        train "$seed" "$every" "$until" < "$work/rates" > "$work/lines"
        report "$lease" "$seq" "$until" "$known" < "$work/lines" > "$work/report"
        # Where another worker has the trial now, or the service lacks some steps, it is asked for again.
        answer=$(ask POST "/trials/$number/reports" "@$work/report") || {
            case $(echo "$answer" | jq --raw-output .type) in
                urn:autowarmup:lease-lapsed | urn:autowarmup:steps-missing | urn:autowarmup:not-running) return ;;
                *) echo "$answer" >&2; exit 1 ;;
            esac
        }
        action=$(echo "$answer" | jq --raw-output .action) known=$until
        until=$(echo "$answer" | jq .until)
    done
}

request='{"total_steps": 200, "current_peak": 0.05, "space": "from-scratch-sgd", "task": {"example": "clouds, awk"}}'
answer=$(ask PUT "" "$request") || {
    echo "$answer" >&2
    exit 1
}
state=running
while [ "$state" = running ]; do
    suggestion=$(ask POST /trials:suggest "{\"client_id\": \"$client\", \"wait_s\": 10}")
    state=$(echo "$suggestion" | jq --raw-output .state)
    leased=$(echo "$suggestion" | jq --compact-output '.trials[]')
    if [ -n "$leased" ]; then trial "$leased"; fi
done
ask GET /verdict | jq --raw-output '"verdict: \(.verdict.kind). \(.verdict.message)"'
ask GET /schedule
echo
