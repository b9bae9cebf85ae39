<#
.SYNOPSIS
Backs up a node for a scheduled task, each time into a folder of its own, and puts the newest one back. Only calls rowferry backup and rowferry restore.

.DESCRIPTION
  backup.ps1 backup -Config FILE -Folder FOLDER [-Keep 7]    a new backup in FOLDER; of older ones the newest -Keep stay
  backup.ps1 restore -Config FILE -Folder FOLDER             put the newest backup in FOLDER back

Exit codes are rowferry's own: 0 done, 1 failed, 2 usage, 3 the backup is torn or altered, 5 database unreachable. Old
backups go only when the new one is whole. $env:ROWFERRY names another command than the one in the path.
#>
param(
    [Parameter(Mandatory, Position = 0)][ValidateSet('backup', 'restore')][string]$Action,
    [Parameter(Mandatory)][string]$Config,
    [Parameter(Mandatory)][string]$Folder,
    [ValidateRange(1, 10000)][int]$Keep = 7
)

$rowferry = if ($env:ROWFERRY) { $env:ROWFERRY } else { 'rowferry' }

$stamp = (Get-Date).ToUniversalTime().ToString('yyyyMMddTHHmmssZ')

# Oldest first. One that is named later than now was made under a clock that was wrong, or is: it counts as older than
# all others, so that it keeps no newer one away.
function Get-WholeBackup {
    Get-ChildItem -Path $Folder -Directory -ErrorAction SilentlyContinue |
        Where-Object { $_.Name -match '^\d{8}T\d{6}Z$' -and (Test-Path (Join-Path $_.FullName 'backup.json')) } |
        Sort-Object { [string]::CompareOrdinal($_.Name, $stamp) -le 0 }, Name
}

if ($Action -eq 'backup') {
    & $rowferry --config $Config backup (Join-Path $Folder $stamp)
    if ($LASTEXITCODE -eq 0) {
        Get-WholeBackup | Select-Object -SkipLast $Keep | Remove-Item -Recurse
        exit 0
    }
    exit $LASTEXITCODE
}

$newest = Get-WholeBackup | Select-Object -Last 1
if (-not $newest) {
    [Console]::Error.WriteLine("backup.ps1: $Folder holds no whole backup")
    exit 3
}
& $rowferry --config $Config restore $newest.FullName
exit $LASTEXITCODE
