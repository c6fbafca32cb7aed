# shellcheck shell=bash
# The processors that Trunkline is built for, for the scripts beside this one. They read it after `die` stands and after going to the
# checkout's root: . cross/targets.sh

all_targets() { echo aarch64 armv7 armv6 x86-64; }

triple_of() {
    case $1 in
        aarch64) echo aarch64-unknown-linux-musl ;;
        armv7) echo armv7-unknown-linux-musleabihf ;;
        armv6) echo arm-unknown-linux-musleabihf ;;
        x86-64) echo x86_64-unknown-linux-musl ;;
        *) die "no target \`$1\`: aarch64, armv7, armv6 or x86-64" ;;
    esac
}

# Those whose binary lies in a folder.
built_in() { # folder
    local target
    for target in $(all_targets); do
        [ ! -x "$1/trunkline-$(triple_of "$target")" ] || echo "$target"
    done
}
