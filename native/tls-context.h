// What all TLS connections of one kind share: who we are, whom we believe, what we speak.
#pragma once

#include "addon.h"
#include "openssl-subset.h"

namespace netdrive {

struct TlsContext {
  ssl_ctx_st* context = nullptr;
  bool is_server = false;
  // Records one key may protect: RFC 8446, 5.5.
  uint64_t records_per_key_max = 0;
};

// The context behind what tlsContext returned; null with a pending exception.
const TlsContext* GetTlsContext(napi_env env, napi_value value);

napi_value RegisterTlsContext(napi_env env, napi_value exports);

}  // namespace netdrive
