// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Macros that real headers define: <windows.h>, <complex.h>, <termios.h>, <sys/sysmacros.h>, X11,
// Qt, Arduino, macOS, and the habits of C programs. Each expands to something that cannot be
// compiled where a name stands.
#define min(a, b) @min
#define max(a, b) @max
#define near @near
#define far @far
#define small @small
#define interface @interface
#define ERROR @ERROR
#define DELETE @DELETE
#define IN @IN
#define OUT @OUT
#define OPTIONAL @OPTIONAL
#define CONST @CONST
#define TRUE @TRUE
#define FALSE @FALSE
#define STRICT @STRICT
#define ABSOLUTE @ABSOLUTE
#define RELATIVE @RELATIVE
#define CALLBACK @CALLBACK
#define I @I
#define B0 @B0
#define B1 @B1
#define major(x) @major
#define minor(x) @minor
#define None @None
#define Bool @Bool
#define Status @Status
#define Success @Success
#define Always @Always
#define True @True
#define False @False
#define signals @signals
#define slots @slots
#define emit @emit
#define foreach(a, b) @foreach
#define F(x) @F
#define _(x) @gettext
#define check(x) @check
#define verify(x) @verify
#define require(x, y) @require
#define CHECK(x) @CHECK
#define ASSERT(x) @ASSERT
#define LOG(x) @LOG
#define MIN(a, b) @MIN
#define MAX(a, b) @MAX
#define ABS(x) @ABS
#define PI @PI
#define EPSILON @EPSILON
#define unix @unix
#define linux @linux
#define OK @OK
#define BIT(n) @BIT
#define DEBUG @DEBUG
#define VERSION @VERSION
#define BLOCK_SIZE @BLOCK_SIZE
#define STEP @STEP
