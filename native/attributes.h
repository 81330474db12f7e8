// The attribute record of src/vfs/attr.ts (ATTR_BYTES), filled from statx(2).
#pragma once

#include <sys/stat.h>

#include <cstdint>

namespace netdrive {

// Byte for byte the table in src/vfs/attr.ts; little-endian like every machine we run on.
struct AttrRecord {
  uint64_t ino;
  uint64_t size;
  uint64_t blocks;
  int64_t atime_s;
  int64_t mtime_s;
  int64_t ctime_s;
  int64_t btime_s;
  uint32_t atime_ns;
  uint32_t mtime_ns;
  uint32_t ctime_ns;
  uint32_t btime_ns;
  uint32_t mode;
  uint32_t nlink;
  uint32_t uid;
  uint32_t gid;
  uint32_t rdev_major;
  uint32_t rdev_minor;
  uint32_t blksize;
  uint32_t reserved;
};
static_assert(sizeof(AttrRecord) == 104, "ATTR_BYTES of src/vfs/attr.ts");
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "records are little-endian and written as structs");

// What to ask statx for: all of the record.
constexpr unsigned kStatxMask = STATX_BASIC_STATS | STATX_BTIME;

inline void FillAttr(const struct statx& from, AttrRecord* to) {
  bool btime = (from.stx_mask & STATX_BTIME) != 0;
  *to = AttrRecord{
      .ino = from.stx_ino,
      .size = from.stx_size,
      .blocks = from.stx_blocks,
      .atime_s = from.stx_atime.tv_sec,
      .mtime_s = from.stx_mtime.tv_sec,
      .ctime_s = from.stx_ctime.tv_sec,
      .btime_s = btime ? from.stx_btime.tv_sec : 0,
      .atime_ns = from.stx_atime.tv_nsec,
      .mtime_ns = from.stx_mtime.tv_nsec,
      .ctime_ns = from.stx_ctime.tv_nsec,
      .btime_ns = btime ? from.stx_btime.tv_nsec : 0,
      .mode = from.stx_mode,
      .nlink = from.stx_nlink,
      .uid = from.stx_uid,
      .gid = from.stx_gid,
      .rdev_major = from.stx_rdev_major,
      .rdev_minor = from.stx_rdev_minor,
      .blksize = from.stx_blksize,
      .reserved = 0,
  };
}

}  // namespace netdrive
