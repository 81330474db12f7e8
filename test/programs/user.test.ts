/**
 * A drive of a user without privileges, on both sides, with nothing but defaults: git, make, sqlite3 and the shell work on it.
 */
import assert from "node:assert/strict";
import { chownSync } from "node:fs";
import { test } from "node:test";
import { scriptAsUser, USER } from "../cli/as-user.ts";
import { command } from "../support/child.ts";
import { netdrive } from "../support/drive.ts";
import { makeTemp } from "../support/temp.ts";

/** What such a user does in $W, a directory; its output does not depend on where that is. */
const WORK = `
cd "$W"
export HOME="$W" GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null LC_ALL=C
export GIT_AUTHOR_NAME=A GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=A GIT_COMMITTER_EMAIL=a@b
export GIT_AUTHOR_DATE='2020-01-01T00:00:00Z' GIT_COMMITTER_DATE='2020-01-01T00:00:00Z'
git init -q -b main origin && cd origin
for i in $(seq 60); do seq $i $((i * 20)) > file$i; done
git add -A && git commit -qm first && sed -i 's/7/seven/' file* && git commit -qam second && cd ..
git clone -q origin clone && cd clone && git log --format='%h %s' && git rm -q file1 && git commit -qm third
git gc -q --prune=now && git fsck --full --strict && git status --porcelain && git push -q origin HEAD:other && cd ..
git -C origin rev-parse other
printf 'all: out\\nout: in\\n\\ttr a-z A-Z < in > out\\n' > Makefile && echo words > in && make -s && cat out && make
sqlite3 db 'PRAGMA journal_mode=WAL; CREATE TABLE t(a); BEGIN; INSERT INTO t VALUES (1), (2); COMMIT;'
sqlite3 db 'SELECT sum(a) FROM t; PRAGMA integrity_check;'
umask 027; mkdir d; echo x > d/f; chmod 640 d/f; ln -s f d/l; ln d/f d/h; cp -a d e; mv e d/e; stat -c '%n %A %h %s' d d/f d/h d/e d/e/f
touch -d '2001-02-03 04:05:06.789012345 UTC' d/f; stat -c '%y' d/f; chmod 000 d/f; cat d/f 2>&1 || true; chmod 600 d/f
chown 0:0 d/f 2>&1 || true; mknod dev c 1 3 2>&1 || true; setfattr -n user.x -v 1 d/f && getfattr --only-values -n user.x d/f; echo
find d | sort; tar -cf - d | tar -tf - | sort; rm -rf d origin clone; ls -A`;

test("a user without privileges serves, mounts and works, with the defaults", async () => {
  await using temp = makeTemp("user");
  chownSync(temp.path, USER, USER);
  const [main = ""] = netdrive();
  const script = `
    cd ${temp.path}; export NETDRIVE_RUNTIME=$PWD/runtime; mkdir served mount local runtime
    mkfifo urls
    "${process.execPath}" "${main}" serve served --listen 127.0.0.1:0 > urls & server=$!
    read -r url < urls
    trap 'netdrive umount mount 2> /dev/null || true; kill $server 2> /dev/null || true' EXIT
    netdrive mount "$url" mount > /dev/null
    (W=$PWD/local; ${WORK}) > plain.txt
    (W=$PWD/mount; ${WORK}) > drive.txt
    netdrive umount mount; kill $server; wait $server; trap - EXIT
    ls -A served; echo ---; cat plain.txt; echo ---; cat drive.txt`;
  const { stdout } = await command("unshare", scriptAsUser(main, script), { cwd: "/" });
  const [served = "", plain = "", drive = ""] = stdout.split("---\n");
  assert.equal(served, "Makefile\ndb\nin\nout\n");
  assert.ok(plain.split("\n").length > 30, plain);
  assert.equal(drive, plain);
});
