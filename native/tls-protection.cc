// See tls-protection.h.
#include "tls-protection.h"

#include <algorithm>
#include <cstring>
#include <iterator>

namespace netdrive {
namespace {

constexpr uint8_t kApplicationData = 23;
constexpr size_t kDigestBytesMax = 64;
constexpr size_t kKeyBytesMax = 32;
constexpr unsigned long kOpenSsl31 = 0x30100000;
// What one update of a cipher takes is an int.
static_assert(kTlsSealedBytesMax < 1u << 30);

struct Suite {
  int number;
  const evp_cipher_st* (*cipher)();
  const evp_md_st* (*digest)();
  size_t key_bytes;
  size_t secret_bytes;
  bool is_aes;
};

// All of TLS 1.3 but those with short tags.
const Suite* FindSuite(int number) {
  static const Suite kSuites[] = {{0x1301, EVP_aes_128_gcm, EVP_sha256, 16, 32, true},
                                  {0x1302, EVP_aes_256_gcm, EVP_sha384, 32, 48, true},
                                  {0x1303, EVP_chacha20_poly1305, EVP_sha256, 32, 32, false}};
  const Suite* suite = std::find_if(std::begin(kSuites), std::end(kSuites), [=](const Suite& each) { return each.number == number; });
  return suite == std::end(kSuites) ? nullptr : suite;
}

// HKDF-Expand-Label of RFC 8446, 7.1, without a context, for what is no longer than the digest: one round of HKDF-Expand.
bool ExpandLabel(const evp_md_st* digest, const uint8_t* secret, size_t secret_bytes, const char* label, uint8_t* out, size_t bytes) {
  constexpr char kPrefix[] = "tls13 ";
  const size_t label_bytes = sizeof kPrefix - 1 + strlen(label);
  uint8_t info[64] = {static_cast<uint8_t>(bytes >> 8), static_cast<uint8_t>(bytes), static_cast<uint8_t>(label_bytes)};
  memcpy(info + 3, kPrefix, sizeof kPrefix - 1);
  memcpy(info + 3 + sizeof kPrefix - 1, label, strlen(label));
  // An empty context, and the number of the round.
  info[3 + label_bytes] = 0;
  info[4 + label_bytes] = 1;
  uint8_t made[kDigestBytesMax];
  unsigned made_bytes = 0;
  const bool is_made =
      HMAC(digest, secret, static_cast<int>(secret_bytes), info, 5 + label_bytes, made, &made_bytes) != nullptr && made_bytes >= bytes;
  if (is_made) memcpy(out, made, bytes);
  OPENSSL_cleanse(made, sizeof made);
  return is_made;
}

}  // namespace

TlsProtection::~TlsProtection() {
  if (cipher_ != nullptr) EVP_CIPHER_CTX_free(cipher_);
  OPENSSL_cleanse(secret_, sizeof secret_);
}

void TlsProtection::SetSecret(const uint8_t* secret, size_t bytes) {
  secret_bytes_ = bytes <= sizeof secret_ ? bytes : 0;
  memcpy(secret_, secret, secret_bytes_);
}

bool TlsProtection::Begin(int number, bool seals) {
  const Suite* suite = FindSuite(number);
  if (suite == nullptr || secret_bytes_ != suite->secret_bytes) return false;
  digest_ = suite->digest();
  key_bytes_ = suite->key_bytes;
  seals_ = seals;
  if (suite->is_aes && OpenSSL_version_num() < kOpenSsl31 && AesGcm::IsUsable()) {
    wide_ = std::make_unique<AesGcm>();
    return SetKey();
  }
  cipher_ = EVP_CIPHER_CTX_new();
  return cipher_ != nullptr && EVP_CipherInit_ex(cipher_, suite->cipher(), nullptr, nullptr, nullptr, seals ? 1 : 0) == 1 && SetKey();
}

bool TlsProtection::Renew() {
  uint8_t next[kTlsSecretBytesMax];
  const bool is_made = ExpandLabel(digest_, secret_, secret_bytes_, "traffic upd", next, secret_bytes_);
  if (is_made) memcpy(secret_, next, secret_bytes_);
  OPENSSL_cleanse(next, sizeof next);
  return is_made && SetKey();
}

bool TlsProtection::SetKey() {
  number_ = 0;
  uint8_t key[kKeyBytesMax];
  bool is_set = ExpandLabel(digest_, secret_, secret_bytes_, "key", key, key_bytes_) &&
                ExpandLabel(digest_, secret_, secret_bytes_, "iv", iv_, sizeof iv_);
  if (is_set && wide_ != nullptr) {
    wide_->SetKey(key, key_bytes_);
  } else {
    is_set = is_set && EVP_CipherInit_ex(cipher_, nullptr, nullptr, key, nullptr, -1) == 1;
  }
  OPENSSL_cleanse(key, sizeof key);
  return is_set;
}

// Begins the next record: its nonce, the tag it should have if it is to be opened, and its header, which is protected and not hidden.
bool TlsProtection::Start(const uint8_t* header, uint8_t* tag) {
  uint8_t nonce[sizeof iv_];
  memcpy(nonce, iv_, sizeof nonce);
  for (size_t i = 0; i < sizeof number_; i++) nonce[sizeof nonce - 1 - i] ^= static_cast<uint8_t>(number_ >> (8 * i));
  number_ += 1;
  if (wide_ != nullptr) {
    wide_->Start(nonce, header, kTlsHeaderBytes);
    return true;
  }
  int done = 0;
  return EVP_CipherInit_ex(cipher_, nullptr, nullptr, nullptr, nonce, -1) == 1 &&
         (tag == nullptr || EVP_CIPHER_CTX_ctrl(cipher_, kEvpSetTag, static_cast<int>(kTlsTagBytes), tag) == 1) &&
         EVP_CipherUpdate(cipher_, nullptr, &done, header, static_cast<int>(kTlsHeaderBytes)) == 1;
}

// All but the last are of whole blocks.
bool TlsProtection::Update(const uint8_t* in, size_t bytes, uint8_t* out) {
  if (wide_ != nullptr) {
    seals_ ? wide_->Seal(in, bytes, out) : wide_->Open(in, bytes, out);
    return true;
  }
  int done = 0;
  return bytes == 0 || (EVP_CipherUpdate(cipher_, out, &done, in, static_cast<int>(bytes)) == 1 && static_cast<size_t>(done) == bytes);
}

bool TlsProtection::FinishSealing(uint8_t* tag) {
  if (wide_ != nullptr) {
    wide_->Finish(tag);
    return true;
  }
  int done = 0;
  return EVP_CipherFinal_ex(cipher_, tag, &done) == 1 && EVP_CIPHER_CTX_ctrl(cipher_, kEvpGetTag, static_cast<int>(kTlsTagBytes), tag) == 1;
}

bool TlsProtection::FinishOpening(const uint8_t* tag) {
  uint8_t made[kTlsTagBytes];
  if (wide_ != nullptr) {
    wide_->Finish(made);
    return CRYPTO_memcmp(made, tag, sizeof made) == 0;
  }
  int done = 0;
  return EVP_CipherFinal_ex(cipher_, made, &done) == 1;
}

bool TlsProtection::Seal(uint8_t type, const uint8_t* data, size_t bytes, uint8_t* out) {
  const size_t sealed = bytes + 1 + kTlsTagBytes;
  const uint8_t header[kTlsHeaderBytes] = {kApplicationData, 3, 3, static_cast<uint8_t>(sealed >> 8), static_cast<uint8_t>(sealed)};
  memcpy(out, header, sizeof header);
  uint8_t* at = out + sizeof header;
  const size_t last = bytes % AesGcm::kBlockBytes;
  const size_t whole = bytes - last;
  uint8_t end[AesGcm::kBlockBytes];
  memcpy(end, data + whole, last);
  end[last] = type;
  return Start(header, nullptr) && Update(data, whole, at) && Update(end, last + 1, at + whole) && FinishSealing(at + bytes + 1);
}

bool TlsProtection::Open(uint8_t* record, size_t sealed, uint8_t* place, size_t room, size_t* placed) {
  *placed = 0;
  if (sealed < kTlsTagBytes) return false;
  uint8_t* at = record + kTlsHeaderBytes;
  const size_t bytes = sealed - kTlsTagBytes;
  *placed = bytes <= room ? bytes : room - room % AesGcm::kBlockBytes;
  return Start(record, at + bytes) && Update(at, *placed, place) && Update(at + *placed, bytes - *placed, at + *placed) && FinishOpening(at + bytes);
}

}  // namespace netdrive
