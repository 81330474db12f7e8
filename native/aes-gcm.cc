// See aes-gcm.h. How numbers of GF(2^128) are multiplied: S. Gueron, "A New Interpretation for the GHASH Authenticator of AES-GCM" (2023). In short: with the
// bytes the other way round their bits are, too, and a product comes out divided by x; so one factor is kept times x.
#include "aes-gcm.h"

#include <cstring>

#include "openssl-subset.h"

#if defined(__x86_64__)

#include <immintrin.h>

// Headers of GCC 12 warn of what they leave undefined on purpose.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

#define NETDRIVE_WIDE __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,aes,pclmul")))
#define NETDRIVE_WIDE_INLINE NETDRIVE_WIDE inline __attribute__((always_inline))

namespace netdrive {
namespace {

// x^128 + x^127 + x^126 + x^121 + 1, and the bit that a doubling carries from one half to the other.
constexpr auto kPolynomial = static_cast<long long>(0xc200000000000000);
constexpr auto kPolynomialWithCarry = static_cast<long long>(0xc200000000000001);

NETDRIVE_WIDE_INLINE __m128i Load(const uint8_t* from) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)); }

NETDRIVE_WIDE_INLINE void Store(uint8_t* to, __m128i value) { _mm_storeu_si128(reinterpret_cast<__m128i*>(to), value); }

NETDRIVE_WIDE_INLINE __m128i Turned(__m128i value) {
  return _mm_shuffle_epi8(value, _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
}

NETDRIVE_WIDE_INLINE __m512i Turned(__m512i value) {
  return _mm512_shuffle_epi8(value, _mm512_broadcast_i32x4(_mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)));
}

// A product of its parts: those of the low halves, of low and high ones, added, and of the high halves.
NETDRIVE_WIDE_INLINE __m128i Reduced(__m128i low, __m128i middle, __m128i high) {
  const __m128i polynomial = _mm_set_epi64x(kPolynomial, 1);
  middle = _mm_xor_si128(middle, _mm_xor_si128(_mm_shuffle_epi32(low, 0x4e), _mm_clmulepi64_si128(polynomial, low, 0x01)));
  return _mm_xor_si128(high, _mm_xor_si128(_mm_shuffle_epi32(middle, 0x4e), _mm_clmulepi64_si128(polynomial, middle, 0x01)));
}

NETDRIVE_WIDE_INLINE __m128i Multiplied(__m128i a, __m128i b) {
  return Reduced(_mm_clmulepi64_si128(a, b, 0x00), _mm_xor_si128(_mm_clmulepi64_si128(a, b, 0x01), _mm_clmulepi64_si128(a, b, 0x10)),
                 _mm_clmulepi64_si128(a, b, 0x11));
}

// The parts of products whose sum is reduced once.
struct Products {
  __m512i low;
  __m512i middle;
  __m512i high;
};

NETDRIVE_WIDE_INLINE void Add(Products* sum, __m512i a, __m512i b) {
  sum->low = _mm512_xor_si512(sum->low, _mm512_clmulepi64_epi128(a, b, 0x00));
  // 0x96: all three added.
  sum->middle =
      _mm512_ternarylogic_epi64(sum->middle, _mm512_clmulepi64_epi128(a, b, 0x01), _mm512_clmulepi64_epi128(a, b, 0x10), 0x96);
  sum->high = _mm512_xor_si512(sum->high, _mm512_clmulepi64_epi128(a, b, 0x11));
}

NETDRIVE_WIDE_INLINE __m128i Sum(__m512i of) {
  return _mm_xor_si128(_mm_xor_si128(_mm512_extracti32x4_epi32(of, 0), _mm512_extracti32x4_epi32(of, 1)),
                       _mm_xor_si128(_mm512_extracti32x4_epi32(of, 2), _mm512_extracti32x4_epi32(of, 3)));
}

NETDRIVE_WIDE_INLINE __m128i Reduced(const Products& sum) {
  return Reduced(Sum(sum.low), Sum(sum.middle), Sum(sum.high));
}

// 16 blocks, as four times four.
struct Blocks {
  __m512i at[4];
};

NETDRIVE_WIDE_INLINE Blocks LoadBlocks(const uint8_t* from) {
  return {{_mm512_loadu_si512(from), _mm512_loadu_si512(from + 64), _mm512_loadu_si512(from + 128), _mm512_loadu_si512(from + 192)}};
}

// The hash with 16 more blocks of what is sealed.
NETDRIVE_WIDE_INLINE __m128i Hashed(__m128i hash, const Blocks& sealed, const Blocks& powers) {
  Products sum = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512()};
  Add(&sum, _mm512_xor_si512(Turned(sealed.at[0]), _mm512_zextsi128_si512(hash)), powers.at[0]);
#pragma GCC unroll 4
  for (int i = 1; i < 4; i++) Add(&sum, Turned(sealed.at[i]), powers.at[i]);
  return Reduced(sum);
}

NETDRIVE_WIDE_INLINE __m512i Counted(int blocks) { return _mm512_broadcast_i32x4(_mm_set_epi32(0, 0, 0, blocks)); }

// The rounds between the first key and the last one.
NETDRIVE_WIDE_INLINE void Round(Blocks* blocks, __m512i key) {
#pragma GCC unroll 4
  for (__m512i& each : blocks->at) each = _mm512_aesenc_epi128(each, key);
}

NETDRIVE_WIDE_INLINE __m128i NextKey(__m128i key, __m128i assist) {
  key = _mm_xor_si128(key, _mm_slli_si128(key, 4));
  key = _mm_xor_si128(key, _mm_slli_si128(key, 8));
  return _mm_xor_si128(key, assist);
}

// The keys of rounds, FIPS 197, 5.2. `kStep`: what is added at this one.
template <int kStep>
NETDRIVE_WIDE_INLINE void Expand(__m128i* keys, int have, size_t key_bytes) {
  const __m128i assist = _mm_shuffle_epi32(_mm_aeskeygenassist_si128(keys[have - 1], kStep), 0xff);
  if (key_bytes == 16) {
    keys[have] = NextKey(keys[have - 1], assist);
    return;
  }
  keys[have] = NextKey(keys[have - 2], assist);
  keys[have + 1] = NextKey(keys[have - 1], _mm_shuffle_epi32(_mm_aeskeygenassist_si128(keys[have], 0), 0xaa));
}

NETDRIVE_WIDE_INLINE __m128i Encrypted(__m128i block, const uint8_t (*keys)[AesGcm::kBlockBytes], int rounds) {
  block = _mm_xor_si128(block, Load(keys[0]));
  for (int i = 1; i < rounds; i++) block = _mm_aesenc_si128(block, Load(keys[i]));
  return _mm_aesenclast_si128(block, Load(keys[rounds]));
}

// Whether a message comes out as OpenSSL makes it, and back.
bool MakesTheSame() {
  constexpr size_t kBytes = 16 * 16 * 2 + 16 * 5 + 7;
  uint8_t text[kBytes], sealed[kBytes], ours[kBytes], tag[AesGcm::kTagBytes], our_tag[AesGcm::kTagBytes];
  for (size_t i = 0; i < kBytes; i++) text[i] = static_cast<uint8_t>(i * 31 + (i >> 8));
  evp_cipher_ctx_st* cipher = EVP_CIPHER_CTX_new();
  int done = 0;
  const bool is_made = cipher != nullptr && EVP_CipherInit_ex(cipher, EVP_aes_128_gcm(), nullptr, text, text + 16, 1) == 1 &&
                       EVP_CipherUpdate(cipher, nullptr, &done, text, 5) == 1 &&
                       EVP_CipherUpdate(cipher, sealed, &done, text, static_cast<int>(kBytes)) == 1 &&
                       EVP_CipherFinal_ex(cipher, ours, &done) == 1 && EVP_CIPHER_CTX_ctrl(cipher, kEvpGetTag, sizeof tag, tag) == 1;
  EVP_CIPHER_CTX_free(cipher);
  AesGcm wide;
  wide.SetKey(text, 16);
  wide.Start(text + 16, text, 5);
  wide.Seal(text, kBytes, ours);
  wide.Finish(our_tag);
  const bool is_sealed = is_made && memcmp(ours, sealed, kBytes) == 0 && memcmp(our_tag, tag, sizeof tag) == 0;
  wide.Start(text + 16, text, 5);
  wide.Open(sealed, kBytes, ours);
  wide.Finish(our_tag);
  return is_sealed && memcmp(ours, text, kBytes) == 0 && memcmp(our_tag, tag, sizeof tag) == 0;
}

}  // namespace

bool AesGcm::IsUsable() {
  static const bool is_usable = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                                __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("vaes") && __builtin_cpu_supports("vpclmulqdq") &&
                                MakesTheSame();
  return is_usable;
}

NETDRIVE_WIDE void AesGcm::SetKey(const uint8_t* key, size_t bytes) {
  rounds_ = bytes == 16 ? 10 : 14;
  __m128i keys[kRoundsMax + 2];
  keys[0] = Load(key);
  keys[1] = Load(key + bytes - kBlockBytes);
  const int first = bytes == 16 ? 1 : 2;
  Expand<0x01>(keys, first, bytes);
  Expand<0x02>(keys, first * 2, bytes);
  Expand<0x04>(keys, first * 3, bytes);
  Expand<0x08>(keys, first * 4, bytes);
  Expand<0x10>(keys, first * 5, bytes);
  Expand<0x20>(keys, first * 6, bytes);
  Expand<0x40>(keys, first * 7, bytes);
  if (bytes == 16) {
    Expand<0x80>(keys, 8, bytes);
    Expand<0x1b>(keys, 9, bytes);
    Expand<0x36>(keys, 10, bytes);
  }
  for (int i = 0; i <= rounds_; i++) Store(keys_[i], keys[i]);
  OPENSSL_cleanse(keys, sizeof keys);

  const __m128i hashed = Turned(Encrypted(_mm_setzero_si128(), keys_, rounds_));
  const __m128i carries = _mm_srai_epi32(_mm_shuffle_epi32(hashed, 0xd3), 31);
  const __m128i doubled = _mm_xor_si128(_mm_add_epi64(hashed, hashed), _mm_and_si128(carries, _mm_set_epi64x(kPolynomialWithCarry, 1)));
  __m128i power = doubled;
  for (int i = kWide - 1; i >= 0; i--) {
    Store(powers_[i], power);
    power = Multiplied(power, doubled);
  }
}

AesGcm::~AesGcm() {
  OPENSSL_cleanse(keys_, sizeof keys_);
  OPENSSL_cleanse(powers_, sizeof powers_);
  OPENSSL_cleanse(mask_, sizeof mask_);
}

NETDRIVE_WIDE void AesGcm::Start(const uint8_t* nonce, const uint8_t* header, size_t header_bytes) {
  uint8_t first[kBlockBytes] = {};
  memcpy(first, nonce, kNonceBytes);
  first[kBlockBytes - 1] = 1;
  Store(mask_, Encrypted(Load(first), keys_, rounds_));
  Store(counter_, _mm_add_epi32(Turned(Load(first)), _mm_set_epi32(0, 0, 0, 1)));
  uint8_t block[kBlockBytes] = {};
  memcpy(block, header, header_bytes);
  Store(hash_, Multiplied(Turned(Load(block)), Load(powers_[kWide - 1])));
  header_bits_ = header_bytes * 8;
  bits_ = 0;
}

// What is sealed is hashed while the next blocks are encrypted: neither waits for the other.
template <bool kSeals>
NETDRIVE_WIDE void AesGcm::Crypt(const uint8_t* in, size_t bytes, uint8_t* out) {
  constexpr size_t kWideBytes = kWide * kBlockBytes;
  bits_ += bytes * 8;
  const int rounds = rounds_;
  __m512i keys[kRoundsMax + 1];
  for (int i = 0; i <= rounds; i++) keys[i] = _mm512_broadcast_i32x4(Load(keys_[i]));
  __m512i counter = _mm512_add_epi32(_mm512_broadcast_i32x4(Load(counter_)), _mm512_set_epi32(0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0));
  __m128i hash = Load(hash_);
  const Blocks powers = LoadBlocks(powers_[0]);
  Blocks sealed = {};
  bool is_unhashed = false;
  for (; bytes >= kWideBytes; in += kWideBytes, out += kWideBytes, bytes -= kWideBytes) {
    Blocks stream;
#pragma GCC unroll 4
    for (__m512i& each : stream.at) {
      each = _mm512_xor_si512(Turned(counter), keys[0]);
      counter = _mm512_add_epi32(counter, Counted(4));
    }
    const Blocks text = LoadBlocks(in);
    if (!kSeals) {
      hash = Hashed(hash, text, powers);
    } else if (is_unhashed) {
      hash = Hashed(hash, sealed, powers);
    }
#pragma GCC unroll 16
    for (int i = 1; i < 10; i++) Round(&stream, keys[i]);
    if (rounds > 10) {
#pragma GCC unroll 16
      for (int i = 10; i < kRoundsMax; i++) Round(&stream, keys[i]);
    }
    // The last round adds its key last, and so the text with it.
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
      sealed.at[i] = _mm512_aesenclast_epi128(stream.at[i], _mm512_xor_si512(keys[rounds], text.at[i]));
      _mm512_storeu_si512(out + 64 * i, sealed.at[i]);
    }
    is_unhashed = true;
  }
  if (kSeals && is_unhashed) hash = Hashed(hash, sealed, powers);

  const size_t blocks = (bytes + kBlockBytes - 1) / kBlockBytes;
  const uint8_t* power = powers_[kWide - blocks];
  Products sum = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512()};
  __m512i carried = _mm512_zextsi128_si512(hash);
  for (size_t at = 0; at < bytes; at += 64, power += 64) {
    const size_t some = bytes - at < 64 ? bytes - at : 64;
    const __mmask64 mask = ~uint64_t{0} >> (64 - some);
    __m512i stream = _mm512_xor_si512(Turned(counter), keys[0]);
    counter = _mm512_add_epi32(counter, Counted(static_cast<int>((some + kBlockBytes - 1) / kBlockBytes)));
    for (int i = 1; i < rounds; i++) stream = _mm512_aesenc_epi128(stream, keys[i]);
    const __m512i text = _mm512_maskz_loadu_epi8(mask, in + at);
    const __m512i made = _mm512_maskz_mov_epi8(mask, _mm512_aesenclast_epi128(stream, _mm512_xor_si512(keys[rounds], text)));
    _mm512_mask_storeu_epi8(out + at, mask, made);
    Add(&sum, _mm512_xor_si512(Turned(kSeals ? made : text), carried), _mm512_loadu_si512(power));
    carried = _mm512_setzero_si512();
  }
  if (bytes > 0) hash = Reduced(sum);
  Store(counter_, _mm512_castsi512_si128(counter));
  Store(hash_, hash);
}

void AesGcm::Seal(const uint8_t* in, size_t bytes, uint8_t* out) { Crypt<true>(in, bytes, out); }

void AesGcm::Open(const uint8_t* in, size_t bytes, uint8_t* out) { Crypt<false>(in, bytes, out); }

NETDRIVE_WIDE void AesGcm::Finish(uint8_t* tag) {
  const __m128i lengths = _mm_set_epi64x(static_cast<long long>(header_bits_), static_cast<long long>(bits_));
  const __m128i hash = Multiplied(_mm_xor_si128(Load(hash_), lengths), Load(powers_[kWide - 1]));
  Store(tag, _mm_xor_si128(Turned(hash), Load(mask_)));
}

}  // namespace netdrive

#else

namespace netdrive {

bool AesGcm::IsUsable() { return false; }
AesGcm::~AesGcm() = default;
void AesGcm::SetKey(const uint8_t*, size_t) {}
void AesGcm::Start(const uint8_t*, const uint8_t*, size_t) {}
void AesGcm::Seal(const uint8_t*, size_t, uint8_t*) {}
void AesGcm::Open(const uint8_t*, size_t, uint8_t*) {}
void AesGcm::Finish(uint8_t*) {}

}  // namespace netdrive

#endif
