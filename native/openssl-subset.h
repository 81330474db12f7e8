// The functions of OpenSSL 3 we need. Node carries OpenSSL and exports it, but its headers do not come with node-api-headers. Types are opaque, so no
// structure is assumed; numbers are those that OpenSSL keeps for good.
//
// All are weak: where Node has none of them the addon still loads, and OpenSslIsUsable() says no.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {
struct ssl_st;
struct ssl_ctx_st;
struct ssl_method_st;
struct bio_st;
struct bio_method_st;
struct x509_st;
struct x509_store_st;
struct evp_pkey_st;
struct evp_cipher_st;
struct evp_cipher_ctx_st;
struct evp_md_st;
struct ssl_cipher_st;
struct ssl_session_st;

#define NETDRIVE_WEAK __attribute__((weak))
NETDRIVE_WEAK unsigned long OpenSSL_version_num(void);
NETDRIVE_WEAK unsigned long ERR_peek_error(void);
NETDRIVE_WEAK const char* ERR_reason_error_string(unsigned long error);
NETDRIVE_WEAK void ERR_clear_error(void);

NETDRIVE_WEAK const ssl_method_st* TLS_method(void);
NETDRIVE_WEAK ssl_ctx_st* SSL_CTX_new(const ssl_method_st* method);
NETDRIVE_WEAK void SSL_CTX_free(ssl_ctx_st* context);
NETDRIVE_WEAK long SSL_CTX_ctrl(ssl_ctx_st* context, int command, long number, void* pointer);
NETDRIVE_WEAK uint64_t SSL_CTX_set_options(ssl_ctx_st* context, uint64_t options);
NETDRIVE_WEAK int SSL_CTX_set_ciphersuites(ssl_ctx_st* context, const char* names);
NETDRIVE_WEAK int SSL_CTX_set_num_tickets(ssl_ctx_st* context, size_t count);
NETDRIVE_WEAK int SSL_CTX_use_certificate(ssl_ctx_st* context, x509_st* certificate);
NETDRIVE_WEAK int SSL_CTX_use_PrivateKey(ssl_ctx_st* context, evp_pkey_st* key);
NETDRIVE_WEAK x509_store_st* SSL_CTX_get_cert_store(const ssl_ctx_st* context);
NETDRIVE_WEAK int SSL_CTX_set_alpn_protos(ssl_ctx_st* context, const unsigned char* list, unsigned bytes);
NETDRIVE_WEAK void SSL_CTX_set_alpn_select_cb(ssl_ctx_st* context,
                                              int (*select)(ssl_st*, const unsigned char** out, unsigned char* out_bytes,
                                                            const unsigned char* in, unsigned in_bytes, void*),
                                              void* data);
NETDRIVE_WEAK void SSL_CTX_set_keylog_callback(ssl_ctx_st* context, void (*log)(const ssl_st*, const char* line));
NETDRIVE_WEAK int SSL_select_next_proto(unsigned char** out, unsigned char* out_bytes, const unsigned char* server,
                                        unsigned server_bytes, const unsigned char* client, unsigned client_bytes);

NETDRIVE_WEAK ssl_st* SSL_new(ssl_ctx_st* context);
NETDRIVE_WEAK void SSL_free(ssl_st* ssl);
NETDRIVE_WEAK long SSL_ctrl(ssl_st* ssl, int command, long number, void* pointer);
NETDRIVE_WEAK void SSL_set_bio(ssl_st* ssl, bio_st* read, bio_st* write);
NETDRIVE_WEAK void SSL_set_connect_state(ssl_st* ssl);
NETDRIVE_WEAK void SSL_set_accept_state(ssl_st* ssl);
NETDRIVE_WEAK int SSL_do_handshake(ssl_st* ssl);
NETDRIVE_WEAK int SSL_get_error(const ssl_st* ssl, int result);
NETDRIVE_WEAK int SSL_set_ex_data(ssl_st* ssl, int index, void* data);
NETDRIVE_WEAK void* SSL_get_ex_data(const ssl_st* ssl, int index);
NETDRIVE_WEAK const ssl_cipher_st* SSL_get_current_cipher(const ssl_st* ssl);
NETDRIVE_WEAK uint16_t SSL_CIPHER_get_protocol_id(const ssl_cipher_st* cipher);
NETDRIVE_WEAK const char* SSL_CIPHER_get_name(const ssl_cipher_st* cipher);
NETDRIVE_WEAK ssl_session_st* SSL_get_session(const ssl_st* ssl);
NETDRIVE_WEAK uint8_t SSL_SESSION_get_max_fragment_length(const ssl_session_st* session);
NETDRIVE_WEAK const char* SSL_alert_desc_string_long(int alert);
NETDRIVE_WEAK int SSL_export_keying_material(ssl_st* ssl, unsigned char* out, size_t bytes, const char* label, size_t label_bytes,
                                             const unsigned char* context, size_t context_bytes, int use_context);
NETDRIVE_WEAK long SSL_get_verify_result(const ssl_st* ssl);
NETDRIVE_WEAK x509_st* SSL_get1_peer_certificate(const ssl_st* ssl);

NETDRIVE_WEAK bio_method_st* BIO_meth_new(int type, const char* name);
NETDRIVE_WEAK int BIO_meth_set_read(bio_method_st* method, int (*read)(bio_st*, char*, int));
NETDRIVE_WEAK int BIO_meth_set_write(bio_method_st* method, int (*write)(bio_st*, const char*, int));
NETDRIVE_WEAK int BIO_meth_set_ctrl(bio_method_st* method, long (*ctrl)(bio_st*, int, long, void*));
NETDRIVE_WEAK bio_st* BIO_new(const bio_method_st* method);
NETDRIVE_WEAK void BIO_set_init(bio_st* bio, int is_ready);
NETDRIVE_WEAK void BIO_set_data(bio_st* bio, void* data);
NETDRIVE_WEAK void* BIO_get_data(bio_st* bio);
NETDRIVE_WEAK void BIO_set_flags(bio_st* bio, int flags);
NETDRIVE_WEAK void BIO_clear_flags(bio_st* bio, int flags);

NETDRIVE_WEAK x509_st* d2i_X509(x509_st** certificate, const unsigned char** in, long bytes);
NETDRIVE_WEAK int i2d_X509(const x509_st* certificate, unsigned char** out);
NETDRIVE_WEAK void X509_free(x509_st* certificate);
NETDRIVE_WEAK int X509_STORE_add_cert(x509_store_st* store, x509_st* certificate);
NETDRIVE_WEAK const char* X509_verify_cert_error_string(long code);
NETDRIVE_WEAK evp_pkey_st* d2i_AutoPrivateKey(evp_pkey_st** key, const unsigned char** in, long bytes);
NETDRIVE_WEAK void EVP_PKEY_free(evp_pkey_st* key);

NETDRIVE_WEAK const evp_md_st* EVP_sha256(void);
NETDRIVE_WEAK const evp_md_st* EVP_sha384(void);
NETDRIVE_WEAK unsigned char* HMAC(const evp_md_st* digest, const void* key, int key_bytes, const unsigned char* data, size_t bytes,
                                  unsigned char* out, unsigned* out_bytes);
NETDRIVE_WEAK const evp_cipher_st* EVP_aes_128_gcm(void);
NETDRIVE_WEAK const evp_cipher_st* EVP_aes_256_gcm(void);
NETDRIVE_WEAK const evp_cipher_st* EVP_chacha20_poly1305(void);
NETDRIVE_WEAK evp_cipher_ctx_st* EVP_CIPHER_CTX_new(void);
NETDRIVE_WEAK void EVP_CIPHER_CTX_free(evp_cipher_ctx_st* cipher);
NETDRIVE_WEAK int EVP_CIPHER_CTX_ctrl(evp_cipher_ctx_st* cipher, int command, int number, void* pointer);
NETDRIVE_WEAK int EVP_CipherInit_ex(evp_cipher_ctx_st* cipher, const evp_cipher_st* kind, void* engine, const unsigned char* key,
                                    const unsigned char* nonce, int seals);
NETDRIVE_WEAK int EVP_CipherUpdate(evp_cipher_ctx_st* cipher, unsigned char* out, int* out_bytes, const unsigned char* in, int bytes);
NETDRIVE_WEAK int EVP_CipherFinal_ex(evp_cipher_ctx_st* cipher, unsigned char* out, int* out_bytes);
NETDRIVE_WEAK int CRYPTO_memcmp(const void* a, const void* b, size_t bytes);
NETDRIVE_WEAK void OPENSSL_cleanse(void* place, size_t bytes);
#undef NETDRIVE_WEAK
}

namespace netdrive {

constexpr int kSslModeReleaseBuffers = 16;             // SSL_MODE_RELEASE_BUFFERS
constexpr int kSslCtrlMode = 33;                       // SSL_CTRL_MODE
constexpr int kSslCtrlSetSessionCacheMode = 44;        // SSL_CTRL_SET_SESS_CACHE_MODE; 0 is SSL_SESS_CACHE_OFF
constexpr int kSslCtrlSetServerName = 55;              // SSL_CTRL_SET_TLSEXT_HOSTNAME; of kind 0, a host name
constexpr int kSslCtrlAddChainCertificate = 89;        // SSL_CTRL_CHAIN_CERT; with 0 it takes the certificate over
constexpr int kSslCtrlSetMinVersion = 123;             // SSL_CTRL_SET_MIN_PROTO_VERSION
constexpr int kTls13 = 0x0304;                         // TLS1_3_VERSION
constexpr uint64_t kSslServerPreference = 1ull << 22;  // SSL_OP_CIPHER_SERVER_PREFERENCE
constexpr int kSslErrorWantRead = 2;                   // SSL_ERROR_WANT_READ
constexpr int kSslAppData = 0;                         // the index of SSL_set_app_data
constexpr int kEvpGetTag = 0x10;                       // EVP_CTRL_AEAD_GET_TAG
constexpr int kEvpSetTag = 0x11;                       // EVP_CTRL_AEAD_SET_TAG
constexpr int kAlpnOk = 0;                             // SSL_TLSEXT_ERR_OK
constexpr int kAlpnFatal = 2;                          // SSL_TLSEXT_ERR_ALERT_FATAL
constexpr int kNextProtocolAgreed = 1;                 // OPENSSL_NPN_NEGOTIATED
constexpr int kBioSourceSink = 0x0400;                 // BIO_TYPE_SOURCE_SINK
constexpr int kBioRetryRead = 0x01 | 0x08;             // BIO_FLAGS_READ | BIO_FLAGS_SHOULD_RETRY
constexpr int kBioRetryAny = 0x0f;                     // BIO_FLAGS_RWS | BIO_FLAGS_SHOULD_RETRY
constexpr int kBioCtrlFlush = 11;                      // BIO_CTRL_FLUSH

// Whether this Node has the functions above, of a version they are the same in.
inline bool OpenSslIsUsable() {
  return OpenSSL_version_num != nullptr && OpenSSL_version_num() >> 28 == 3 && TLS_method != nullptr && SSL_CTX_set_keylog_callback != nullptr &&
         SSL_get1_peer_certificate != nullptr && BIO_meth_new != nullptr && d2i_AutoPrivateKey != nullptr && EVP_CipherUpdate != nullptr && HMAC != nullptr;
}

}  // namespace netdrive
