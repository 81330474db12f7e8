// AES-256-GCM for small messages under one key: a cipher that has its key is kept, so that a message costs what its few blocks cost.
#include "seal.h"

#include "arguments.h"
#include "openssl-subset.h"

namespace netdrive {
namespace {

constexpr size_t kKeyBytes = 32;
constexpr size_t kNonceBytes = 12;
constexpr size_t kTagBytes = 16;
constexpr size_t kMessageBytesMax = 1 << 16;

void Free(napi_env, void* cipher, void*) { EVP_CIPHER_CTX_free(static_cast<evp_cipher_ctx_st*>(cipher)); }

// seal(message: Buffer, headBytes): `message` is a head that is authenticated and ends with the nonce, then what is sealed in place, then room for the tag.
napi_value Seal(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  void* data = nullptr;
  NETDRIVE_CHECK(env, napi_get_cb_info(env, info, nullptr, nullptr, nullptr, &data));
  auto* cipher = static_cast<evp_cipher_ctx_st*>(data);
  const Bytes message = arguments.Buffer(0);
  const size_t head = arguments.Unsigned(1);
  if (!arguments.ok() || message.size > kMessageBytesMax || head < kNonceBytes || message.size < head + kTagBytes) return arguments.Wrong();
  unsigned char* body = message.data + head;
  const size_t bytes = message.size - head - kTagBytes;
  int done = 0;
  const bool is_sealed = EVP_CipherInit_ex(cipher, nullptr, nullptr, nullptr, body - kNonceBytes, -1) == 1 &&
                         EVP_CipherUpdate(cipher, nullptr, &done, message.data, static_cast<int>(head)) == 1 &&
                         EVP_CipherUpdate(cipher, body, &done, body, static_cast<int>(bytes)) == 1 &&
                         EVP_CipherFinal_ex(cipher, body + bytes, &done) == 1 &&
                         EVP_CIPHER_CTX_ctrl(cipher, kEvpGetTag, static_cast<int>(kTagBytes), body + bytes) == 1;
  if (!is_sealed) napi_throw_error(env, nullptr, "netdrive addon: sealing failed");
  return nullptr;
}

// createSeal(key: Buffer) -> seal, or undefined where Node has no OpenSSL that we know.
napi_value Create(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  const Bytes key = arguments.Buffer(0);
  if (!arguments.ok() || key.size != kKeyBytes) return arguments.Wrong();
  if (!OpenSslIsUsable()) return nullptr;
  evp_cipher_ctx_st* cipher = EVP_CIPHER_CTX_new();
  napi_value seal = nullptr;
  if (cipher == nullptr || EVP_CipherInit_ex(cipher, EVP_aes_256_gcm(), nullptr, key.data, nullptr, 1) != 1 ||
      napi_create_function(env, "seal", NAPI_AUTO_LENGTH, Seal, cipher, &seal) != napi_ok ||
      napi_add_finalizer(env, seal, cipher, Free, nullptr, nullptr) != napi_ok) {
    if (cipher != nullptr) EVP_CIPHER_CTX_free(cipher);
    napi_throw_error(env, nullptr, "netdrive addon: no cipher");
    return nullptr;
  }
  return seal;
}

}  // namespace

napi_value RegisterSeal(napi_env env, napi_value exports) { return Export(env, exports, "createSeal", Create); }

}  // namespace netdrive
