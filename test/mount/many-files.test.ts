/**
 * Row P5: many files at once, each with its own sections. 200 files are written at the same time, by one program and by 200, and each has its own bytes.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { command, shell } from "../support/child.ts";
import { startDrive } from "../support/drive.ts";

const FILES = 200;

/** Writes all files piece by piece in turn, every kind of open among them, reads all back, and closes. */
const INTERLEAVED = `import hashlib, os, sys
FILES, MIB = ${FILES}, 1 << 20
os.chdir(sys.argv[1])
kinds = [0, 0, 0, os.O_DIRECT, os.O_SYNC, os.O_APPEND]
def piece(index, part):
    size = 4096 * (1 + (index * 7 + part * 13) % 90)
    return hashlib.blake2b(b"%d %d" % (index, part)).digest() * (size // 64)
files = [os.open("f%03d" % index, os.O_RDWR | os.O_CREAT | kinds[index % len(kinds)]) for index in range(FILES)]
sizes = [0] * FILES
for part in range(6):
    for index, fd in enumerate(files):
        data = memoryview(piece(index, part))
        while data:
            count = os.pwrite(fd, data, sizes[index])
            sizes[index] += count
            data = data[count:]
for index, fd in enumerate(files):
    assert os.fstat(fd).st_size == sizes[index]
    wanted = b"".join(piece(index, part) for part in range(6))
    at = 0
    while at < sizes[index]:
        found = os.pread(fd, MIB, at)
        assert found == wanted[at:at + MIB], (index, at)
        at += len(found)
    if index % 3 == 0: os.fsync(fd)
for fd in files: os.close(fd)
with open(sys.argv[2], "w") as sums:
    for index in range(FILES):
        wanted = b"".join(piece(index, part) for part in range(6))
        sums.write("%s  f%03d\\n" % (hashlib.md5(wanted).hexdigest(), index))
`;

test("200 files written at once by one program, buffered, unbuffered, synchronous and appended, have their own bytes", async () => {
  await using drive = await startDrive({ mount: ["--channels", "2"] });
  const { path, directory, scratch } = drive;
  const sums = `${scratch}/sums`;
  await command("python3", ["-c", INTERLEAVED, path, sums]);
  for (const folder of [directory, path]) {
    const { stdout } = await shell(`cd ${folder}; ls | wc -l; md5sum --quiet -c ${sums} && echo good`);
    assert.deepEqual(stdout.trim().split("\n"), [String(FILES), "good"]);
  }
});

test("200 programs that write a file each at the same time have their own bytes", async () => {
  await using drive = await startDrive();
  const { path, directory, scratch } = drive;
  const script = `
    head -c 40000000 /dev/urandom > ${scratch}/data
    for i in $(seq ${FILES}); do
      dd if=${scratch}/data of=${path}/f$i bs=50021 skip=$((i * 3)) count=12 iflag=fullblock status=none &
    done
    wait
    for i in $(seq ${FILES}); do
      dd if=${scratch}/data bs=50021 skip=$((i * 3)) count=12 iflag=fullblock status=none | cmp - ${directory}/f$i
    done
    cd ${directory}; ls | wc -l`;
  assert.equal((await shell(script)).stdout.trim(), String(FILES));
});
