<#
.SYNOPSIS
Exchanges changes by file, for a scheduled task or a person with a USB stick. Only calls rowferry pull and rowferry push.

.DESCRIPTION
  push_pull.ps1 pull -Config FILE -File FILE[,FILE...]        apply files that came from other nodes
  push_pull.ps1 push -Config FILE -File OUT/ [-Client NAME]   write what NAME (default: file) has not been given yet

OUT/ is a folder, made where it is missing: each file in it is called by its LSNs and none is ever replaced. With the
name of a file instead, a push ends with 1 until that file was taken away.

Exit codes are rowferry's own: 0 done, 1 failed, 2 usage, 3 a file was refused, 4 something was set aside (look with
rowferry dlq list), 5 database unreachable. $env:ROWFERRY names another command than the one in the path.
#>
param(
    [Parameter(Mandatory, Position = 0)][ValidateSet('pull', 'push')][string]$Action,
    [Parameter(Mandatory)][string]$Config,
    [Parameter(Mandatory)][string[]]$File,
    [string]$Client
)

$rowferry = if ($env:ROWFERRY) { $env:ROWFERRY } else { 'rowferry' }
$arguments = @('--config', $Config, $Action)
foreach ($one in $File) {
    $arguments += @('--file', $one)
}
if ($Action -eq 'push' -and $Client) {
    $arguments += @('--client', $Client)
}

& $rowferry @arguments
exit $LASTEXITCODE
