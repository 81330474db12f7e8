// Contexts of OpenSSL for JavaScript: TLS 1.3 only, no sessions kept, no tickets given out, HTTP/1.1 behind it.
//
// A client checks certificates but ends no handshake over them: JavaScript asks how it went and decides (tcpPeer), before it says a word.
#include "tls-context.h"

#include <string>

#include "arguments.h"
#include "tls-engine.h"

namespace netdrive {
namespace {

// As ALPN says "http/1.1".
constexpr unsigned char kAlpn[] = {8, 'h', 't', 't', 'p', '/', '1', '.', '1'};

int SelectProtocol(ssl_st*, const unsigned char** out, unsigned char* out_bytes, const unsigned char* in, unsigned in_bytes, void*) {
  const int result = SSL_select_next_proto(const_cast<unsigned char**>(out), out_bytes, kAlpn, sizeof kAlpn, in, in_bytes);
  return result == kNextProtocolAgreed ? kAlpnOk : kAlpnFatal;
}

// Gives `use` each certificate of DER after DER; false if one is none, or `use` says so. `use` owns what it gets.
template <typename Use>
bool ForEachCertificate(const Bytes& der, Use use) {
  const unsigned char* at = der.data;
  const unsigned char* end = der.data + der.size;
  while (at < end) {
    x509_st* certificate = d2i_X509(nullptr, &at, static_cast<long>(end - at));
    if (certificate == nullptr || !use(certificate)) return false;
  }
  return true;
}

bool SetIdentity(ssl_ctx_st* context, const Bytes& chain, const Bytes& key_der) {
  bool is_first = true;
  const bool has_chain = ForEachCertificate(chain, [&](x509_st* certificate) {
    if (!is_first) return SSL_CTX_ctrl(context, kSslCtrlAddChainCertificate, 0, certificate) == 1;
    is_first = false;
    const bool is_used = SSL_CTX_use_certificate(context, certificate) == 1;
    X509_free(certificate);
    return is_used;
  });
  const unsigned char* at = key_der.data;
  evp_pkey_st* key = has_chain && !is_first ? d2i_AutoPrivateKey(nullptr, &at, static_cast<long>(key_der.size)) : nullptr;
  const bool has_key = key != nullptr && SSL_CTX_use_PrivateKey(context, key) == 1;
  if (key != nullptr) EVP_PKEY_free(key);
  return has_key;
}

bool Believe(ssl_ctx_st* context, const Bytes& authorities) {
  return ForEachCertificate(authorities, [&](x509_st* certificate) {
    const bool is_added = X509_STORE_add_cert(SSL_CTX_get_cert_store(context), certificate) == 1;
    X509_free(certificate);
    return is_added;
  });
}

bool SetUp(ssl_ctx_st* context, const std::string& ciphers) {
  SSL_CTX_ctrl(context, kSslCtrlSetSessionCacheMode, 0, nullptr);
  // OpenSSL shakes hands and no more.
  SSL_CTX_ctrl(context, kSslCtrlMode, kSslModeReleaseBuffers, nullptr);
  SSL_CTX_set_keylog_callback(context, TlsEngine::TakeSecret);
  SSL_CTX_set_options(context, kSslServerPreference);
  SSL_CTX_set_alpn_select_cb(context, SelectProtocol, nullptr);
  return SSL_CTX_ctrl(context, kSslCtrlSetMinVersion, kTls13, nullptr) == 1 && SSL_CTX_set_num_tickets(context, 0) == 1 &&
         SSL_CTX_set_ciphersuites(context, ciphers.c_str()) == 1 && SSL_CTX_set_alpn_protos(context, kAlpn, sizeof kAlpn) == 0;
}

void Finalize(napi_env, void* data, void*) {
  auto* context = static_cast<TlsContext*>(data);
  SSL_CTX_free(context->context);
  delete context;
}

// Leaves an Error pending with what OpenSSL says.
napi_value Failed(napi_env env) {
  const char* reason = ERR_reason_error_string(ERR_peek_error());
  napi_throw_error(env, nullptr, reason == nullptr ? "TLS cannot be set up" : reason);
  ERR_clear_error();
  return nullptr;
}

// tlsContext(ciphers, recordsPerKeyMax, certificates, key): of a server, with its chain and its key (DER); with an empty key of a client, who
// believes those certificates.
napi_value MakeContext(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  const std::string ciphers = arguments.Path(0);
  const int64_t records_per_key_max = arguments.Integer(1);
  const Bytes certificates = arguments.Buffer(2);
  const Bytes key = arguments.Buffer(3);
  if (!arguments.ok() || records_per_key_max < 1) return arguments.Wrong();
  if (!OpenSslIsUsable()) {
    napi_throw_error(env, nullptr, "TLS is not possible: this Node comes without OpenSSL 3");
    return nullptr;
  }
  ERR_clear_error();
  ssl_ctx_st* context = SSL_CTX_new(TLS_method());
  if (context == nullptr) return Failed(env);
  const bool is_server = key.size > 0;
  const bool is_good = SetUp(context, ciphers) && (is_server ? SetIdentity(context, certificates, key) : Believe(context, certificates));
  if (!is_good) {
    SSL_CTX_free(context);
    return Failed(env);
  }
  ERR_clear_error();
  auto* made = new TlsContext{context, is_server, static_cast<uint64_t>(records_per_key_max)};
  napi_value external;
  NETDRIVE_CHECK(env, napi_create_external(env, made, Finalize, nullptr, &external));
  return external;
}

}  // namespace

const TlsContext* GetTlsContext(napi_env env, napi_value value) {
  void* data = nullptr;
  if (value == nullptr || napi_get_value_external(env, value, &data) != napi_ok) {
    napi_throw_type_error(env, nullptr, "netdrive addon: expected a TLS context");
  }
  return static_cast<const TlsContext*>(data);
}

napi_value RegisterTlsContext(napi_env env, napi_value exports) { return Export(env, exports, "tlsContext", MakeContext); }

}  // namespace netdrive
