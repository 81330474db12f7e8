// What the parts of the addon share: registration and argument helpers.
//
// The addon moves bytes and makes system calls; it knows no protocol. It throws no C++ exceptions; a wrong argument is a
// programmer's mistake and becomes a TypeError in JavaScript.
#pragma once

#include <node_api.h>

#include <cstdint>

#define NETDRIVE_CHECK(env, call)                                          \
  do {                                                                     \
    if ((call) != napi_ok) {                                               \
      napi_throw_error((env), nullptr, "netdrive addon: " #call " failed"); \
      return nullptr;                                                      \
    }                                                                      \
  } while (0)

namespace netdrive {

// Each adds its functions to `exports`.
napi_value RegisterSyscalls(napi_env env, napi_value exports);
napi_value RegisterFuse(napi_env env, napi_value exports);

// Adds one function to `exports`; nullptr with a pending exception on failure.
napi_value Export(napi_env env, napi_value exports, const char* name, napi_callback function);

}  // namespace netdrive
