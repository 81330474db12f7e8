// AES-GCM (NIST SP 800-38D) by the wide instructions of newer x86 processors, VAES and VPCLMULQDQ over 512 bits: nonces of 12 bytes, tags of 16.
//
// OpenSSL has the same from 3.1 on, at twice to three times the speed of what it had before; Node 20 and 22 carry 3.0. It is for those, and goes when they do.
// There is no table and no branch by a secret: the instructions take the same time for all data.
#pragma once

#include <cstddef>
#include <cstdint>

namespace netdrive {

class AesGcm {
 public:
  static constexpr size_t kBlockBytes = 16;
  static constexpr size_t kNonceBytes = 12;
  static constexpr size_t kTagBytes = 16;

  // Whether this processor has the instructions, and makes of them what OpenSSL makes without. All else is to be called only then.
  static bool IsUsable();

  AesGcm() = default;
  ~AesGcm();
  AesGcm(const AesGcm&) = delete;
  AesGcm& operator=(const AesGcm&) = delete;

  // 16 or 32 bytes.
  void SetKey(const uint8_t* key, size_t bytes);
  // Begins a message, with what is protected and not hidden: a block at most.
  void Start(const uint8_t* nonce, const uint8_t* header, size_t header_bytes);
  // The next bytes: whole blocks but for the last call. `out` is `in`, or does not overlap it.
  void Seal(const uint8_t* in, size_t bytes, uint8_t* out);
  void Open(const uint8_t* in, size_t bytes, uint8_t* out);
  // The tag; one that is to be opened must be compared with it.
  void Finish(uint8_t* tag);

 private:
  template <bool kSeals>
  void Crypt(const uint8_t* in, size_t bytes, uint8_t* out);

  static constexpr int kRoundsMax = 14;
  // Blocks that are hashed at once.
  static constexpr int kWide = 16;

  alignas(64) uint8_t keys_[kRoundsMax + 1][kBlockBytes] = {};
  // The key of the hash to the power of 16, 15, ... 1, each times x; and zeros, for what is read beyond.
  alignas(64) uint8_t powers_[kWide + 3][kBlockBytes] = {};
  int rounds_ = 0;
  // Of the next block. Its bytes, as those of hash_, are the other way round than in the message.
  alignas(16) uint8_t counter_[kBlockBytes] = {};
  alignas(16) uint8_t hash_[kBlockBytes] = {};
  // What the tag is hidden with.
  alignas(16) uint8_t mask_[kBlockBytes] = {};
  uint64_t header_bits_ = 0;
  uint64_t bits_ = 0;
};

}  // namespace netdrive
