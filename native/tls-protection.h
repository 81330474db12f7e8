// One direction of TLS 1.3's record protection (RFC 8446, 5.2, 5.3 and 7): a traffic secret, the key made of it, and the number of the next record.
//
// The cipher is OpenSSL's, or that of aes-gcm.h where OpenSSL's is slower. It knows what a record looks like and nothing of what is in it, nor where it comes
// from or goes to. One thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "aes-gcm.h"
#include "openssl-subset.h"

namespace netdrive {

constexpr size_t kTlsHeaderBytes = 5;
constexpr size_t kTlsTagBytes = 16;
// Plaintext of one record at most, without its type.
constexpr size_t kTlsRecordBytes = 1 << 14;
// What follows the header at most: a peer may pad, and so may say more than we do (RFC 8446, 5.2).
constexpr size_t kTlsSealedBytesMax = kTlsRecordBytes + 256;
// What a record of ours has besides its plaintext: header, type, tag.
constexpr size_t kTlsOverhead = kTlsHeaderBytes + 1 + kTlsTagBytes;
constexpr size_t kTlsSecretBytesMax = 48;

class TlsProtection {
 public:
  TlsProtection() = default;
  ~TlsProtection();
  TlsProtection(const TlsProtection&) = delete;
  TlsProtection& operator=(const TlsProtection&) = delete;

  // Remembers the first secret; more than kTlsSecretBytesMax is none.
  void SetSecret(const uint8_t* secret, size_t bytes);
  // Makes the first key, of the cipher suite `suite` (its number in TLS), to seal with or to open with. False: there is no such suite, or not such a secret.
  bool Begin(int suite, bool seals);
  // Goes on to the next key; the next record has the number 0.
  bool Renew();
  // Records of this key so far.
  uint64_t records() const { return number_; }

  // Seals the next record: [data, data + bytes), at most kTlsRecordBytes, of the type `type`, to `out`, which has room for kTlsOverhead more. The data may
  // be where it goes to: at `out` + kTlsHeaderBytes.
  bool Seal(uint8_t type, const uint8_t* data, size_t bytes, uint8_t* out);

  // Opens the next record, `sealed` bytes behind its header, which hide so many less kTlsTagBytes: *placed of them go to `place`, all or most of what there is `room`
  // for, and the rest stays where it was sealed. False if it is not what the peer has sent: then all of it is rubbish.
  bool Open(uint8_t* record, size_t sealed, uint8_t* place, size_t room, size_t* placed);

 private:
  bool SetKey();
  bool Start(const uint8_t* header, uint8_t* tag);
  bool Update(const uint8_t* in, size_t bytes, uint8_t* out);
  bool FinishSealing(uint8_t* tag);
  bool FinishOpening(const uint8_t* tag);

  // One of them.
  evp_cipher_ctx_st* cipher_ = nullptr;
  std::unique_ptr<AesGcm> wide_;
  bool seals_ = false;
  const evp_md_st* digest_ = nullptr;
  size_t key_bytes_ = 0;
  uint8_t secret_[kTlsSecretBytesMax] = {};
  size_t secret_bytes_ = 0;
  uint8_t iv_[12] = {};
  uint64_t number_ = 0;
};

}  // namespace netdrive
