// Entry point of the addon.
#include "addon.h"

#include "busy-wait.h"
#include "network-watch.h"
#include "seal.h"
#include "tcp-socket.h"
#include "tls-context.h"

namespace netdrive {

napi_value Export(napi_env env, napi_value exports, const char* name, napi_callback function) {
  napi_value value;
  NETDRIVE_CHECK(env, napi_create_function(env, name, NAPI_AUTO_LENGTH, function, nullptr, &value));
  NETDRIVE_CHECK(env, napi_set_named_property(env, exports, name, value));
  return exports;
}

}  // namespace netdrive

NAPI_MODULE_INIT() {
  if (netdrive::RegisterSyscalls(env, exports) == nullptr) return nullptr;
  if (netdrive::RegisterFuse(env, exports) == nullptr) return nullptr;
  if (netdrive::RegisterTcpSocket(env, exports) == nullptr) return nullptr;
  if (netdrive::RegisterTlsContext(env, exports) == nullptr) return nullptr;
  if (netdrive::RegisterSeal(env, exports) == nullptr) return nullptr;
  if (netdrive::RegisterBusyWait(env, exports) == nullptr) return nullptr;
  if (netdrive::RegisterNetworkWatch(env, exports) == nullptr) return nullptr;
  return exports;
}
