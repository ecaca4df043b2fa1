'use strict';

// ADDON names another build of the addon for the tests to use. The loader's own variable can not be set for all of
// Jest: every native package that Jest itself uses has the same loader and would take our binary for its own.
if (process.env.ADDON) process.env.NAPI_RS_NATIVE_LIBRARY_PATH = process.env.ADDON;
