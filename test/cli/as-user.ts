/**
 * A user without privileges on a machine as distributions set it up, whatever this one is like: everybody may open /dev/fuse, and
 * nobody may let others use a mount.
 */

export const USER = 65_534;

/** Arguments for unshare(1): runs `node ARGS` as that user, in a mount namespace of its own. */
export function asUser(...args: string[]): string[] {
  return ["--mount", "--propagation", "private", "bash", "--norc", "-euc", MACHINE, "-", process.execPath, ...args];
}

/** Arguments for unshare(1): runs a shell script as that user, where `netdrive` is `node MAIN`. */
export function scriptAsUser(main: string, script: string): string[] {
  const whole = `netdrive() { "${process.execPath}" "${main}" "$@"; }\n${script}`;
  return [
    "--mount",
    "--propagation",
    "private",
    "bash",
    "--norc",
    "-euc",
    MACHINE,
    "-",
    "bash",
    "--norc",
    "-euc",
    whole,
  ];
}

const MACHINE = `
folder=$(mktemp -d)
mknod -m 666 $folder/fuse c 10 229
: > $folder/fuse.conf
mount --bind $folder/fuse /dev/fuse
test ! -e /etc/fuse.conf || mount --bind $folder/fuse.conf /etc/fuse.conf
rm -r $folder
# This user may not write where coverage goes.
unset NODE_V8_COVERAGE
exec setpriv --reuid=${USER} --regid=${USER} --clear-groups "$@"`;
