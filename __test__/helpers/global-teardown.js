'use strict';

module.exports = () => globalThis.sharedServices.stop();
